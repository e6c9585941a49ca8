// The text that was read, and what was made from it: continuations, forks, edits; and which of them is shown.

// Correlations over a few symbols say little: the ones over a longer sequence of the same model are kept.
const LEAST = 300;

function openTrace(trace, options = {}) {
  if (trace.units && (!S.known || trace.length >= Math.min(LEAST, S.known.steps))) S.known = { units: trace.units, steps: trace.length };
  if (S.known) trace.units = S.known.units;
  S.branches = [{ name: S.about.kind === "text" ? "Text" : "Input", trace, edits: [], parent: null }];
  S.cursor = options.keep ? Math.min(S.cursor, trace.length - 1) : 0;
  S.selection = S.anchor = S.hover = null;
  openBranch(S.branches[0], true);
}

function openBranch(branch, units) {
  for (const id of ["view", "time", "right"]) el(id).inert = false;
  S.branch = branch;
  S.trace = branch.trace;
  S.influence = null;
  S.hover = null;
  S.cursor = Math.min(S.cursor, S.trace.length - 1);
  if (units) {
    el("layer").replaceChildren(...S.trace.layers().map((layer) => new Option(layer, layer)));
    showSorts();
  }
  buildCells(0);
  showBranches();
  const layer = S.trace.layers().includes(S.layer) ? S.layer : S.trace.layers()[0];
  if (units && !S.chosen) {
    S.chosen = true;
    S.layer = layer;
    S.part = "h";
    S.order = unitScores().map((each) => each.unit);
    S.unit = S.order[0];
  }
  chooseLayer(layer);
  moveTo(S.cursor, { focus: false, keep: true });
  showControls();
}

function showBranches() {
  const list = el("branches");
  list.replaceChildren();
  for (const branch of S.branches) {
    const button = list.appendChild(document.createElement("button"));
    button.type = "button";
    button.setAttribute("role", "tab");
    button.setAttribute("aria-selected", String(branch === S.branch));
    button.tabIndex = branch === S.branch ? 0 : -1;
    button.textContent = branch.name;
    button.addEventListener("click", () => { pause(); openBranch(branch); });
  }
}

// Continue the shown branch by some symbols.
async function extend(count) {
  const branch = S.branch, before = branch.trace.length;
  const payload = await ask("continue", {
    model: S.model.name, ids: branch.trace.ids, steps: count, edits: branch.edits, seed: branch.seed ?? seedValue(), temperature: temperature(),
  });
  if (branch.trace.length !== before) return;
  branch.seed = branch.seed ?? seedValue();
  branch.trace = branch.trace.continued(payload, Math.min(branch.trace.written, before));
  if (S.branch !== branch) return;
  S.trace = branch.trace;
  buildCells(before);
  S.largest = S.trace.largest(S.layer, S.part, S.unit);
  moveTo(S.trace.length - 1, { focus: false, keep: true });
}

function seedValue() { return Math.max(0, Math.min(4294967295, Math.floor(Number(el("seed").value) || 0))); }

function temperature() { return Math.max(0, Math.min(5, Number(el("temperature").value) || 0)); }

function pause() {
  S.running = false;
  if (S.about && S.model) showControls();
}

async function generate() {
  if (S.running) return pause();
  S.running = true;
  showControls();
  while (S.running && S.trace.length < EMBEDDED.limits.steps) {
    const done = await trying(async () => { await extend(S.trace.ids.length ? 4 : 1); return true; });
    if (!done) break;
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
  pause();
}

function addBranch(name, trace, parent, edits, seed) {
  const branch = { name, trace, edits, parent, seed, source: parent.source, known: edits.length ? null : undefined };
  S.branches.push(branch);
  openBranch(branch);
  return branch;
}

function fork() {
  pause();
  const at = S.cursor, count = S.branches.length;
  el("seed").value = seedValue() + 1;
  addBranch("Fork " + count + " at " + at, S.trace.cut(at + 1), S.branch, S.branch.edits.filter((each) => each.step <= at), undefined);
  say("Forked after step " + at + ": Generate continues from there with seed " + seedValue() + ".");
}

async function edit(rewrite) {
  pause();
  if (!S.trace) return;
  const at = S.cursor, parent = S.branch, part = ["h", "c"].includes(S.part) ? S.part : "h";
  const edits = [...parent.edits, { layer: S.layer, part, unit: S.unit, step: at, value: Number(el("value").value), hold: el("hold").checked }];
  await trying(async () => {
    const ids = parent.trace.ids && (rewrite ? parent.trace.ids.slice(0, at + 1) : parent.trace.ids);
    const payload = await ask("trace", { model: S.model.name, ...(ids ? { ids } : parent.source), edits, first: at });
    const written = rewrite ? Math.min(parent.trace.written, at + 1) : parent.trace.written;
    addBranch("Edit " + S.branches.length + ": " + part + " " + S.unit + " at " + at, parent.trace.continued(payload, written), parent, edits, parent.seed);
    if (rewrite) await extend(120);
    moveTo(at, { focus: false });
  }, "Running with the edit \u2026");
}
