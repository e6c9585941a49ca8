// The steps as cells that are coloured, pointed at, selected and walked over with the keyboard.

const cells = { all: [], marked: new Set(), shows: "", built: 0 };

function answerMark(step) {
  const answers = S.trace.answers(step);
  if (!answers || S.about.predicts !== "step") return "";
  const name = S.about.labels[answers[0].id];
  if (S.about.kind === "audio" && answers[0].id === 0) return "\u00b7";
  return name === " " ? "\u2423" : shown(name).slice(0, 2);
}

function buildCells(from) {
  const grid = el("cells"), trace = S.trace, text = S.about.kind === "text";
  grid.className = text ? (S.about.by_character ? "" : "words") : "numbers " + S.about.kind;
  if (!from) {
    grid.replaceChildren();
    cells.all = [];
    cells.built++;
  }
  let line = from ? grid.lastChild : null;
  for (let step = from; step < trace.length; step++) {
    if (!line) {
      line = grid.appendChild(document.createElement("div"));
      line.className = "line";
      line.setAttribute("role", "row");
    }
    const cell = document.createElement("i"), name = trace.names[step];
    cell.setAttribute("role", "gridcell");
    cell.tabIndex = -1;
    cell.step = step;
    const label = text ? shown(name) : answerMark(step);
    cell.textContent = label;
    cell.kinds = (text && name === "\n" ? "mark " : "") + (text && label.length > 3 && label[0] === "<" && label !== name ? "odd " : "") +
      (trace.unknown.has(step) ? "unknown " : "") + (step >= trace.written ? "new " : "");
    line.appendChild(cell);
    cells.all.push(cell);
    if (text && name.endsWith("\n")) line = null;
  }
}

function cellLabel(step) {
  const name = S.about.kind === "text" ? named(S.trace.names[step]) : "step " + step;
  return name + ", " + S.layer + " " + S.part + " unit " + S.unit + ", " + signed(S.trace.value(S.layer, S.part, S.unit, step));
}

// -10 to 10: the colour of a step.
function levelOf(step) {
  if (S.color === "surprise") {
    const logP = S.trace.logP(step);
    return Number.isNaN(logP) ? 0 : Math.min(10, Math.round((-logP / Math.LN2 / 8) * 10));
  }
  return Math.round(10 * relative(S.part, S.trace.value(S.layer, S.part, S.unit, step), S.largest));
}

// Colour all cells where what is shown has changed, else only those whose marks came or went.
function paintCells() {
  if (!S.trace) return;
  const [a, b] = S.selection || [-1, -2], influence = S.influence && S.influence.values, same = new Map(), marked = new Set([S.cursor]);
  for (const place of S.places) {
    for (let step = place.first; step <= place.last; step++) {
      same.set(step, " same" + (step === place.first ? " first" : "") + (step === place.last ? " last" : ""));
      marked.add(step);
    }
  }
  for (let step = a; step <= b; step++) marked.add(step);
  if (S.hover !== null) marked.add(S.hover);
  if (influence) for (const [step, part] of influence) if (part > 0.03) marked.add(step);
  const shows = [S.layer, S.part, S.unit, S.color, S.largest, S.branches.indexOf(S.branch), S.trace.length, cells.built].join("/");
  const whole = shows !== cells.shows;
  cells.shows = shows;
  const paint = (step) => {
    const cell = cells.all[step];
    if (!cell) return;
    if (whole) cell.level = "v" + (levelOf(step) + 10);
    let kind = cell.kinds + cell.level;
    if (marked.has(step)) {
      const part = influence ? influence.get(step) : 0;
      if (part > 0.03) kind += " g" + Math.max(1, Math.min(5, Math.ceil(Math.sqrt(part) * 5)));
      if (step >= a && step <= b) kind += " in";
      kind += same.get(step) || "";
      if (step === S.cursor) kind += " at";
      if (step === S.hover) kind += " over";
    }
    if (cell.className !== kind) cell.className = kind;
  };
  if (whole) for (let step = 0; step < cells.all.length; step++) paint(step);
  else for (const step of new Set([...marked, ...cells.marked])) paint(step);
  cells.marked = marked;
}

function moveTo(step, options = {}) {
  const before = S.cursor;
  S.hover = null;
  S.cursor = Math.max(0, Math.min(S.trace.length - 1, step));
  if (options.extend) {
    const fixed = S.anchor ?? before;
    S.anchor = fixed;
    select(Math.min(fixed, S.cursor), Math.max(fixed, S.cursor));
  } else if (!options.keep) {
    S.anchor = null;
    if (S.selection) select(null);
  }
  const old = cells.all[before], cell = cells.all[S.cursor];
  if (old) old.tabIndex = -1;
  cell.tabIndex = 0;
  cell.setAttribute("aria-label", cellLabel(S.cursor));
  if (options.focus !== false) cell.focus({ preventScroll: true });
  showCell(cell);
  showStep();
}

function showCell(cell) {
  const grid = el("cells"), box = grid.getBoundingClientRect(), own = cell.getBoundingClientRect();
  if (own.top < box.top + 4) grid.scrollTop -= box.top - own.top + 30;
  else if (own.bottom > box.bottom - 4) grid.scrollTop += own.bottom - box.bottom + 30;
}

// The cell nearest in the line above or below, as the lines are wrapped.
function vertical(step, direction) {
  const own = cells.all[step].getBoundingClientRect();
  let row = null, best = step, distance = Infinity;
  for (let n = step + direction; n >= 0 && n < cells.all.length; n += direction) {
    const box = cells.all[n].getBoundingClientRect();
    if (Math.abs(box.top - own.top) < 8) continue;
    if (row === null) row = box.top;
    if (Math.abs(box.top - row) > 8) break;
    const off = Math.abs(box.left - own.left);
    if (off < distance) [best, distance] = [n, off];
  }
  return best;
}

function onCellKey(event) {
  const step = S.cursor, last = S.trace.length - 1;
  if (event.altKey || event.metaKey) return;
  const targets = {
    ArrowLeft: step - 1, ArrowRight: step + 1, Home: event.ctrlKey ? 0 : lineEnd(step, -1), End: event.ctrlKey ? last : lineEnd(step, 1),
    PageUp: step - 200, PageDown: step + 200,
  };
  if (event.key === "ArrowUp" || event.key === "ArrowDown") moveTo(vertical(step, event.key === "ArrowUp" ? -1 : 1), { extend: event.shiftKey });
  else if (event.key in targets) moveTo(targets[event.key], { extend: event.shiftKey });
  else if (event.key === "Escape") { S.anchor = null; select(null); }
  else return;
  event.preventDefault();
}

function lineEnd(step, direction) {
  const top = cells.all[step].getBoundingClientRect().top;
  while (cells.all[step + direction] && Math.abs(cells.all[step + direction].getBoundingClientRect().top - top) < 8) step += direction;
  return step;
}

function wireCells() {
  const grid = el("cells");
  let dragging = null;
  grid.addEventListener("keydown", onCellKey);
  grid.addEventListener("pointerdown", (event) => {
    const step = event.target.step;
    if (step === undefined || event.button) return;
    event.preventDefault();
    dragging = event.pointerType === "touch" ? null : step;
    moveTo(step, { extend: event.shiftKey });
  });
  grid.addEventListener("pointerover", (event) => {
    const step = event.target.step;
    if (step === undefined) return;
    if (dragging !== null && event.buttons & 1) {
      S.anchor = dragging;
      if (step !== S.cursor) moveTo(step, { extend: true });
    } else {
      S.hover = step;
      S.pointing = "cells";
      showStep();
    }
  });
  window.addEventListener("pointerup", () => { dragging = null; });
  grid.addEventListener("pointerleave", () => { S.hover = null; showStep(); });
  grid.addEventListener("focusin", (event) => {
    if (event.target.step !== undefined && event.target.step !== S.cursor) moveTo(event.target.step, { focus: false });
  });
}
