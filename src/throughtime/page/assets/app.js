// The state of the page, what is asked of the server, and what every control does.

const EMBEDDED = JSON.parse(document.getElementById("data").textContent);
const SERVER = "start 'throughtime serve RUN' and open its address.";
const S = {
  model: null, about: null, trace: null, branch: null, branches: [], layer: "", part: "h", unit: 0, largest: 1, largestOf: () => 1, order: [],
  cursor: 0, hover: null, pointing: "cells", anchor: null, selection: null, places: [], threshold: 0.5, color: "unit", influence: null, example: 1, source: null,
  running: false, asked: 0, reading: 0, known: null,
};

function el(id) { return document.getElementById(id); }

function say(text, kind = "") {
  el("message").className = kind;
  el("message").textContent = text;
  el("message").title = text;
}

// What is said while nothing happens.
function rest() {
  const remark = S.trace && S.trace.remark ? "Shown: " + S.trace.remark + ". " : "";
  const gates = S.trace && S.trace.withoutGates ? "The gates of so many steps are not sent. " : "";
  say(remark + gates + "Point at a step, or move with the arrow keys; Shift selects.");
}

let token = "";
try { token = new URLSearchParams(location.hash.slice(1)).get("token") || sessionStorage.getItem("throughtime-token") || ""; } catch { token = ""; }

class Failed extends Error {}

async function ask(path, body) {
  const headers = token ? { authorization: "Bearer " + token } : {};
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch("v1/inspect/" + path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  } catch {
    throw new Failed("The server does not answer: see whether it still runs, then try again.");
  }
  let found = null;
  try { found = await answer.json(); } catch { found = null; }
  if (answer.status === 401) {
    el("token").hidden = false;
    throw new Failed("The server needs a token: type it here, or add #token=... to the address.");
  }
  if (!answer.ok || !found) throw new Failed((found && found.error && (found.error.message || found.error)) || "The server answered " + answer.status + ".");
  return found;
}

// One line for what went wrong, wherever it did.
async function trying(work, words) {
  const number = words ? ++S.asked : 0;
  if (words) say(words, "busy");
  try {
    const found = await work();
    if (words && number === S.asked) rest();
    return found;
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    say(error.message, "wrong");
    return null;
  }
}

function showControls() {
  const can = S.model.live && S.about.generates;
  for (const name of ["generate", "step", "fork", "seed", "temperature"]) el(name).disabled = !can;
  el("generation").classList.toggle("hidden", !can);
  el("editing").classList.toggle("hidden", !S.model.live);
  el("generate").textContent = S.running ? "Pause" : "Generate";
  el("generate").setAttribute("aria-pressed", String(S.running));
  el("color").querySelector("[value=surprise]").disabled = S.about.predicts !== "next";
  el("view-title").textContent = S.about.kind === "text" ? "Text" : "Steps";
}

let painting = 0;
function paintSoon() {
  if (painting) return;
  painting = requestAnimationFrame(() => { painting = 0; paintCells(); drawStrips(); });
}

// The influence on a step: from the file, what is known already, or the server, after the pointer has rested a moment.
let waiting = 0;
function requestInfluence(step) {
  if (!S.about.labels.length || (S.influence && S.influence.step === step)) return;
  const known = S.branch.known || (S.branch.known = new Map());
  S.influence = known.get(step) || null;
  if (S.influence) return;
  if (S.model.file) {
    if (S.model.file.has(step)) S.influence = { step, values: S.model.file.get(step) };
    return;
  }
  clearTimeout(waiting);
  const branch = S.branch;
  waiting = setTimeout(() => S.branch === branch && trying(async () => {
    const found = await ask("influence", { model: S.model.name, ...branch.source, ...(branch.trace.ids ? { ids: branch.trace.ids } : {}), position: step });
    const most = Math.max(...found.values, 0), values = new Map();
    found.values.forEach((value, n) => values.set(found.first + n, most > 0 ? value / most : 0));
    known.set(step, { step, values });
    if (S.branch === branch && (S.hover ?? S.cursor) === step) showStep();
  }), 90);
}

function fileInfluence(kept) {
  const data = bytes(kept.data), forward = S.about.predicts !== "next";
  return {
    has: (step) => step >= kept.first,
    get: (step) => {
      const values = new Map(), row = (step - kept.first) * kept.last;
      for (let back = 0; back < kept.last; back++) {
        const at = step - back - (forward ? 0 : 1);
        if (at >= 0) values.set(at, data[row + back] / 255);
      }
      return values;
    },
  };
}

async function readSource(source, options = {}) {
  S.source = source;
  pause();
  const number = ++S.reading;
  await trying(async () => {
    const payload = await ask("trace", { model: S.model.name, ...source });
    if (number !== S.reading) return;
    const trace = new Trace(payload);
    openTrace(trace, options);
    S.branch.source = trace.ids ? {} : source;
    if (options.fill && S.about.kind === "text") {
      const joined = S.about.by_character || trace.ids || trace.names.some((name) => name.startsWith(" "));
      el("text").value = trace.names.join(joined ? "" : " ");
    }
  }, "Reading \u2026");
}

function readText() {
  const text = el("text").value;
  if (text) readSource({ text }, { keep: true });
}

// Nothing is shown until the next trace comes.
function closeTrace() {
  S.trace = S.branch = S.influence = S.selection = S.hover = S.known = null;
  S.branches = S.places = [];
  for (const id of ["cells", "branches", "bars", "list", "places", "line", "depends"]) el(id).replaceChildren();
  for (const id of ["view", "time", "right"]) el(id).inert = true;
}

async function openModel(name) {
  pause();
  closeTrace();
  await trying(async () => {
    const about = await ask("about?model=" + encodeURIComponent(name));
    S.model = { name, live: true, file: null };
    S.chosen = false;
    showAbout(about);
    S.example = 1;
    el("example").textContent = "Example 1";
    await readSource({ example: 1 }, { fill: true });
  }, "Opening " + name + " \u2026");
}

function showAbout(about) {
  S.about = about;
  el("source").inert = false;
  document.title = S.model.name + ", throughtime";
  const words = { text: "text", numbers: "numbers", audio: "sound" }[about.kind];
  el("about").textContent = about.task + ": " + about.cell.toUpperCase() + " of " + about.sizes.join(" + ") + " units, " + about.parameters.toLocaleString("en") +
    " parameters, reads " + words + (about.forward ? "" : " both ways");
  el("text").classList.toggle("hidden", !about.typed);
  el("read").classList.toggle("hidden", !about.typed);
  el("text").placeholder = about.kind === "text" ? "Type or paste text" : "Steps of numbers as JSON, as in [[0.1, 0.2], [0.3, 0.4]]";
  el("text").value = "";
  el("file-label").hidden = !(S.model.live && (about.kind === "audio" || (about.kind === "numbers" && about.typed)));
  el("file").accept = about.kind === "audio" ? "audio/*" : ".csv,.txt,.json";
}

// Rows of numbers from a table or JSON; samples of a recording as 16 bits in base64.
async function openFile(file) {
  if (!file) return;
  if (S.about.kind === "audio") {
    const context = new OfflineAudioContext(1, 1, Math.max(3000, S.about.rate));
    let sound;
    try {
      sound = await context.decodeAudioData(await file.arrayBuffer());
    } catch {
      return say("The browser cannot read " + file.name + " as a recording: give WAV, FLAC or OGG.", "wrong");
    }
    const samples = sound.getChannelData(0), whole = new Int16Array(samples.length);
    samples.forEach((value, n) => { whole[n] = Math.max(-32768, Math.min(32767, Math.round(value * 32768))); });
    let text = "";
    const raw = new Uint8Array(whole.buffer);
    for (let n = 0; n < raw.length; n += 8192) text += String.fromCharCode(...raw.subarray(n, n + 8192));
    return readSource({ samples: btoa(text), rate: sound.sampleRate });
  }
  const text = await file.text();
  try {
    const rows = text.trim().startsWith("[") ? JSON.parse(text) : text.trim().split(/\r?\n/).map((row) => row.split(/[,;\t]/).map(Number));
    readSource({ values: rows.filter((row) => !Array.isArray(row) || row.every(Number.isFinite)) });
  } catch {
    say("The file must hold rows of numbers, or JSON of them, as in [[0.1, 0.2], [0.3, 0.4]].", "wrong");
  }
}

function wire() {
  wireCells();
  wireStrips();
  el("model").addEventListener("change", () => openModel(el("model").value));
  el("read").addEventListener("click", () => (S.about.kind === "text" ? readText() : readNumbers()));
  let typing = 0;
  el("text").addEventListener("input", () => {
    clearTimeout(typing);
    if (S.about.kind === "text" && el("text").value.length <= 4000) typing = setTimeout(readText, 350);
  });
  el("text").addEventListener("keydown", (event) => { if (event.key === "Enter" && event.ctrlKey) el("read").click(); });
  const example = (change) => {
    S.example = Math.max(1, S.example + change);
    el("example").textContent = "Example " + S.example;
    readSource({ example: S.example }, { fill: true });
  };
  el("back").addEventListener("click", () => example(-1));
  el("next").addEventListener("click", () => example(1));
  el("file").addEventListener("change", () => { openFile(el("file").files[0]); el("file").value = ""; });
  el("color").addEventListener("change", () => { S.color = el("color").value; showLegend(); paintSoon(); });
  el("layer").addEventListener("change", () => { chooseLayer(el("layer").value); chooseUnit(S.order[0]); });
  el("part").addEventListener("change", () => choosePart(el("part").value));
  el("unit").addEventListener("input", () => { if (el("unit").value !== "") chooseUnit(Number(el("unit").value)); });
  el("sort").addEventListener("change", () => { showUnits(); chooseUnit(S.order[0]); });
  el("list").addEventListener("click", (event) => { const item = event.target.closest("[role=option]"); if (item) chooseUnit(item.unit); });
  el("list").addEventListener("keydown", (event) => {
    const at = S.order.indexOf(S.unit), last = S.order.length - 1;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: last, PageDown: at + 9, PageUp: at - 9 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    chooseUnit(S.order[Math.max(0, Math.min(last, to))]);
  });
  el("branches").addEventListener("keydown", (event) => {
    const change = { ArrowLeft: -1, ArrowRight: 1 }[event.key], to = S.branches[S.branches.indexOf(S.branch) + change];
    if (!to) return;
    event.preventDefault();
    openBranch(to);
    el("branches").querySelector("[aria-selected=true]").focus();
  });
  el("threshold").addEventListener("input", () => { S.threshold = Number(el("threshold").value); showSimilar(); paintSoon(); });
  el("value").addEventListener("input", () => { el("value-shown").textContent = signed(Number(el("value").value)); });
  el("generate").addEventListener("click", generate);
  el("step").addEventListener("click", () => { pause(); trying(() => extend(1)); });
  el("fork").addEventListener("click", fork);
  el("seed").addEventListener("change", () => { if (S.branch) S.branch.seed = undefined; });
  el("apply").addEventListener("click", () => edit(false));
  el("rewrite").addEventListener("click", () => edit(true));
  el("token").addEventListener("submit", (event) => {
    event.preventDefault();
    token = el("token-value").value;
    try { sessionStorage.setItem("throughtime-token", token); } catch { /* the page works without it */ }
    el("token").hidden = true;
    start();
  });
}

function readNumbers() {
  try {
    readSource({ values: JSON.parse(el("text").value) });
  } catch {
    say("The numbers must be JSON, as in [[0.1, 0.2], [0.3, 0.4]].", "wrong");
  }
}

async function start() {
  const limits = EMBEDDED.limits;
  el("limits").textContent = "At most " + limits.steps.toLocaleString("en") + " steps are read. Values are sent with 8 bits of the largest of their kind, probabilities with 16, the " +
    limits.top + " likeliest of each step. Influence reaches back " + limits.last + " steps and is the norm of the gradient of one log-probability.";
  if (EMBEDDED.page) {
    const page = EMBEDDED.page;
    S.model = { name: page.name, live: false, file: null };
    el("model").append(new Option(page.name, page.name));
    el("model").disabled = true;
    showAbout(page.about);
    if (page.influence) S.model.file = fileInfluence(page.influence);
    else S.model.file = { has: () => false };
    el("text").classList.add("hidden");
    for (const name of ["read", "examples", "file-label"]) el(name).classList.add("hidden");
    el("source-note").textContent = page.source + ". Another text, continuing and editing need the model: " + SERVER;
    openTrace(new Trace(page.payload));
    rest();
    return;
  }
  const found = await trying(() => ask("models"), "Opening \u2026");
  if (!found) return;
  el("model").replaceChildren(...found.models.map((name) => new Option(name, name)));
  if (found.models.length) await openModel(found.models[0]);
  else say("The server has no model: start it with a run, as in 'throughtime serve runs/book'.", "wrong");
}

window.throughtime = { state: S, unitsOn, similarPlaces }; // for the console
wire();
closeTrace();
el("source").inert = true;
start();
