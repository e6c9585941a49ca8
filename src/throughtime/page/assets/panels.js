// What stands beside the text: the line about one step, the prediction, the units, similar places.

function showStep() {
  if (!S.trace) return;
  const step = S.hover ?? S.cursor;
  requestInfluence(step);
  paintSoon();
  showLine(step);
  showBars(step);
}

function showLine(step) {
  const trace = S.trace, about = S.about, parts = [];
  const unit = S.layer + " " + S.part + " unit " + S.unit + " = " + signed(trace.value(S.layer, S.part, S.unit, step));
  const name = about.kind === "text" ? named(trace.names[step]) : about.seconds ? (step * about.seconds).toFixed(2) + " s" : "";
  const line = el("line");
  line.replaceChildren("step " + step + (name ? " " : ""));
  if (name) line.append(bold(name));
  parts.push(unit);
  const logP = trace.logP(step);
  if (!Number.isNaN(logP)) parts.push("its probability was " + percent(Math.exp(logP)) + " (" + (-logP / Math.LN2).toFixed(2) + " bits)");
  const answers = about.predicts === "next" ? null : trace.answers(step);
  if (answers) parts.push("answer " + labelOf(answers[0].id) + " " + percent(answers[0].p));
  const truth = Array.isArray(trace.truth) ? trace.truth[step] : trace.truth;
  if (truth) parts.push("the data says " + truth);
  if (trace.unknown.has(step)) parts.push("unknown to the model");
  line.append(" \u00b7 " + parts.join(" \u00b7 "));
  showDepends(step);
}

function bold(text) {
  const found = document.createElement("b");
  found.textContent = text;
  return found;
}

function labelOf(id) {
  const name = S.about.labels[id];
  return S.about.kind === "audio" && id === 0 ? "blank" : S.about.kind === "text" || S.about.kind === "audio" ? named(name) : shown(name);
}

function showDepends(step) {
  const line = el("depends"), found = S.influence;
  line.replaceChildren();
  if (!S.about.labels.length) return;
  if (!found || found.step !== step) {
    line.textContent = S.model.file && !S.model.file.has(step) ? "What this step depends on was not written to this file" : "\u2026";
    return;
  }
  if (!found.values.size) {
    line.textContent = "There is nothing before the first step that its prediction could depend on";
    return;
  }
  const most = [...found.values].sort((x, y) => y[1] - x[1]).slice(0, 5);
  line.append(S.about.predicts === "next" ? "Its prediction depends most on " : "Its answer depends most on ");
  most.forEach(([at], n) => {
    line.append(n ? ", " : "");
    line.append(bold(S.about.kind === "text" ? named(S.trace.names[at]) : "step " + at));
    const back = step - at;
    line.append(back > 0 ? " " + back + " back" : back < 0 ? " " + -back + " on" : " itself");
  });
}

function showBars(step) {
  const about = S.about, list = el("bars"), answers = S.trace.answers(step);
  const titles = { next: "Next symbol after ", step: "Answer at ", whole: about.forward ? "Answer if it ended at " : "Answer for all of it" };
  const where = about.kind === "text" ? named(S.trace.names[step]) + " (step " + step + ")" : "step " + step;
  el("prediction-title").textContent = !about.labels.length ? "Prediction" : about.predicts === "whole" && !about.forward ? titles.whole : titles[about.predicts] + where;
  list.replaceChildren();
  const shownAnswers = answers || (about.predicts === "whole" && !about.forward ? S.trace.answers(S.trace.length - 1) : null);
  list.className = shownAnswers ? "" : "none";
  if (!shownAnswers) {
    const item = list.appendChild(document.createElement("li"));
    item.className = "note";
    item.textContent = "This model gives no distribution over symbols or labels.";
    return;
  }
  const next = about.predicts === "next" && step + 1 < S.trace.length && S.trace.ids ? S.trace.ids[step + 1] : null;
  const parent = S.branch && S.branch.parent && step < S.branch.parent.trace.length ? S.branch.parent.trace.answers(step) : null;
  for (const { id, p } of shownAnswers) {
    const item = list.appendChild(document.createElement("li")), bar = document.createElement("span"), fill = document.createElement("i");
    item.className = id === next ? "real" : "";
    fill.style.width = (p * 100).toFixed(2) + "%";
    bar.append(fill);
    const number = document.createElement("small");
    number.textContent = percent(p);
    const before = parent && parent.find((each) => each.id === id);
    if (before && Math.abs(before.p - p) > 0.002) {
      const mark = bar.appendChild(document.createElement("em"));
      mark.style.left = (before.p * 100).toFixed(2) + "%";
      mark.title = "without the edit: " + percent(before.p);
      number.title = mark.title;
    }
    item.append(bold(labelOf(id)), bar, number);
    if (id === next) item.title = "this one came";
  }
}

// The units in the order that was asked for, each with a feature and its correlation with it. "each" begins with the best unit of
// each feature, in the order of the features, and goes on with the others by their own best feature.
function unitScores() {
  const kept = S.trace.units && S.trace.units.of[S.layer][S.part];
  const size = S.trace.size(S.layer, S.part), sort = el("sort").value, found = [];
  for (let unit = 0; unit < size; unit++) {
    let feature = -1, r = 0;
    if (kept) {
      kept.r.forEach((row, n) => {
        if (sort.startsWith("f") ? Number(sort.slice(1)) === n : Math.abs(row[unit]) > Math.abs(r)) [feature, r] = [n, row[unit]];
      });
    }
    found.push({ unit, feature, r, variance: kept ? kept.variance[unit] : 0 });
  }
  const strength = (x, y) => Math.abs(y.r) - Math.abs(x.r) || y.variance - x.variance || x.unit - y.unit;
  if (sort === "number" || !kept) return found;
  if (sort === "variance") return found.sort((x, y) => y.variance - x.variance || x.unit - y.unit);
  found.sort(strength);
  if (sort !== "each") return found;
  const leading = [];
  kept.r.forEach((row, feature) => {
    let best = 0;
    row.forEach((r, unit) => { if (Math.abs(r) > Math.abs(row[best])) best = unit; });
    if (Math.abs(row[best]) >= 0.2) leading.push({ unit: best, feature, r: row[best], variance: kept.variance[best] });
  });
  const used = new Set(leading.map((each) => each.unit));
  return [...leading, ...found.filter((each) => !used.has(each.unit))];
}

function showSorts() {
  const sort = el("sort"), before = sort.value, features = S.trace.units ? S.trace.units.features : [];
  sort.replaceChildren();
  const choices = [["each", "best of each feature"], ["best", "strongest feature"], ["variance", "variance"], ["number", "number"], ...features.map((name, n) => ["f" + n, name])];
  for (const [value, text] of choices) sort.append(new Option(text, value));
  sort.value = choices.some(([value]) => value === before) ? before : "each";
}

function showUnits() {
  if (!S.trace) return;
  const list = el("list"), scores = unitScores(), sort = el("sort").value;
  el("units-note").textContent = S.known ? "Correlation r over " + S.known.steps.toLocaleString("en") + " steps" : "";
  S.order = [...new Set(scores.map((each) => each.unit))];
  list.replaceChildren();
  for (const { unit, feature, r, variance } of scores) {
    const item = list.appendChild(document.createElement("div"));
    item.id = "unit-" + list.children.length;
    item.setAttribute("role", "option");
    item.unit = unit;
    const texts = [String(unit), feature < 0 ? "" : S.trace.units.features[feature], sort === "variance" ? variance.toFixed(3) : feature < 0 ? "" : signed(r)];
    for (const text of texts) item.appendChild(document.createElement("span")).textContent = text;
    item.title = "unit " + unit + ", variance " + variance.toFixed(4) + (feature < 0 ? "" : ", correlation with " + S.trace.units.features[feature] + " " + signed(r));
  }
  markUnit();
}

function markUnit() {
  const list = el("list");
  for (const item of list.children) item.setAttribute("aria-selected", String(item.unit === S.unit));
  const own = list.querySelector("[aria-selected=true]");
  list.setAttribute("aria-activedescendant", own ? own.id : "");
  if (own) {
    if (own.offsetTop < list.scrollTop + list.offsetTop) list.scrollTop = own.offsetTop - list.offsetTop;
    else if (own.offsetTop + 26 > list.scrollTop + list.offsetTop + list.clientHeight) list.scrollTop = own.offsetTop + 28 - list.offsetTop - list.clientHeight;
  }
}

function showLegend() {
  const surprise = S.color === "surprise", centre = CENTRED[S.part] || 0, reach = centre ? 0.5 : S.largest;
  el("legend").className = surprise ? "one" : "";
  el("low").textContent = surprise ? "0" : centre ? "0" : "\u2212" + reach.toFixed(2);
  el("high").textContent = surprise ? "8 bits" : centre ? "1" : "+" + reach.toFixed(2);
  el("legend").setAttribute("aria-label", surprise ? "Colors from 0 to 8 bits of surprise" : "Colors from " + el("low").textContent + " (blue) to " + el("high").textContent + " (orange)");
}

function select(a, b) {
  S.selection = a === null ? null : [a, b];
  showSimilar();
  paintSoon();
}

function showSimilar() {
  if (!S.trace) return;
  const note = el("similar-note"), list = el("places");
  list.replaceChildren();
  S.places = [];
  el("threshold-shown").textContent = Math.round(S.threshold * 100) + " %";
  if (!S.selection) {
    note.textContent = "Select steps: drag over them, or hold Shift with the arrow keys. Then places appear where the same units are on.";
    return;
  }
  const [a, b] = S.selection, bounded = unitsOn(S.trace, S.layer, S.part, a, b, S.threshold, true);
  const units = bounded.length ? bounded : unitsOn(S.trace, S.layer, S.part, a, b, S.threshold, false);
  const where = "in steps " + a + " to " + b, of = S.layer + " " + S.part;
  if (!units.length) {
    note.textContent = "No unit of " + of + " is on " + where + ". Lower the threshold, or select other steps.";
    return;
  }
  const numbers = units.slice(0, 8).map((each) => each.unit).join(", ") + (units.length > 8 ? ", \u2026" : "");
  note.textContent = (units.length === 1 ? "1 unit of " + of + " is" : units.length + " units of " + of + " are") + " on " + where +
    (bounded.length ? " and off just outside: " : " (none of them is off just outside): ") + numbers;
  S.places = similarPlaces(S.trace, S.layer, S.part, a, b, units, 30);
  if (!S.places.length) note.textContent += ". Nowhere else.";
  for (const place of S.places) {
    const button = list.appendChild(document.createElement("li")).appendChild(document.createElement("button"));
    button.type = "button";
    button.appendChild(document.createElement("span")).textContent = place.shared + " of " + units.length;
    const around = S.about.by_character ? 6 : 1, most = S.about.by_character ? 24 : 4, end = Math.min(place.last + 1, place.first + most);
    const text = document.createElement("b"), from = Math.max(0, place.first - around), to = Math.min(S.trace.length, end + around);
    const gap = S.about.by_character ? "" : " ";
    const piece = (x, y) => S.trace.names.slice(x, y).map((name) => (name === "\n" ? "\u21b5" : shown(name))).join(gap);
    if (S.about.kind === "text") {
      const mark = document.createElement("mark");
      mark.textContent = piece(place.first, end);
      text.append(piece(from, place.first), gap, mark, end <= place.last ? "\u2026" : gap + piece(end, to));
    } else text.textContent = "steps " + place.first + " to " + place.last + timeOf(place.first);
    button.append(text);
    button.title = "steps " + place.first + " to " + place.last;
    button.addEventListener("click", () => moveTo(place.first, { keep: true }));
  }
}

function timeOf(step) { return S.about.seconds ? " (" + (step * S.about.seconds).toFixed(2) + " s)" : ""; }

function chooseUnit(unit) {
  if (!S.trace) return;
  S.unit = Math.max(0, Math.min(S.trace.size(S.layer, S.part) - 1, Number.isFinite(unit) ? Math.round(unit) : 0));
  el("unit").value = S.unit;
  S.largest = S.trace.largest(S.layer, S.part, S.unit);
  markUnit();
  showLegend();
  showEdit();
  showStep();
}

function choosePart(part) {
  if (!S.trace) return;
  S.part = part;
  el("part").value = part;
  S.largestOf = (unit) => S.trace.largest(S.layer, S.part, unit);
  el("unit").max = S.trace.size(S.layer, part) - 1;
  showUnits();
  showSimilar();
  chooseUnit(S.unit);
}

function chooseLayer(layer) {
  if (!S.trace) return;
  S.layer = layer;
  el("layer").value = layer;
  el("part").replaceChildren(...S.trace.parts(layer).map((part) => new Option(PART_NAMES[part] ? part + ", " + PART_NAMES[part] : part, part)));
  choosePart(S.trace.parts(layer).includes(S.part) ? S.part : S.trace.parts(layer)[0]);
}

const PART_NAMES = { h: "output", c: "cell state", i: "input gate", f: "forget gate", g: "candidate", o: "output gate", r: "reset gate", z: "update gate", n: "candidate", a: "before tanh" };

function showEdit() {
  const part = ["h", "c"].includes(S.part) ? S.part : "h", can = S.model.live && S.about.forward;
  const most = part === "h" ? 1 : Math.max(1, Math.ceil(S.trace.largest(S.layer, part, Math.min(S.unit, S.trace.size(S.layer, part) - 1)) * 1.5));
  const value = el("value");
  value.max = most;
  value.min = -most;
  el("value-label").textContent = S.layer + " " + part + " unit " + S.unit;
  el("value-shown").textContent = signed(Number(value.value));
  for (const name of ["apply", "rewrite", "value", "hold"]) el(name).disabled = !can;
  el("rewrite").classList.toggle("hidden", !S.about.generates);
  const note = !S.about.forward
    ? "This model reads both ways: its units cannot be set at one step."
    : (S.about.generates ? "Re-run keeps the symbols after the cursor, rewrite draws new ones." : "Re-runs the model from the cursor on.") +
      (S.about.labels.length ? " A tick shows each probability without the edit; influence is without it too." : "");
  el("edit-note").textContent = note;
}
