// The canvas: the input of models of numbers, the chosen unit's states and gates, all units as rows; steps from left to right.

const strips = { first: 0, count: 1, column: 8, left: 64, lanes: [], palette: null };
const ROWS = 36, ROW = 7, LANE = 15, GAP = 14, AXIS = 34, INPUT = 84, NAMES = 12, INFLUENCE = 30;

// The colours of the page, as they are in this colour scheme.
function palette() {
  const probe = document.createElement("i"), colors = [];
  document.body.appendChild(probe);
  for (let level = -10; level <= 10; level++) {
    probe.style.backgroundColor = "color-mix(in oklab, var(--strip-" + (level < 0 ? "low" : "high") + ") " + 10 * Math.abs(level) + "%, var(--middle))";
    colors.push(getComputedStyle(probe).backgroundColor);
  }
  probe.remove();
  const style = getComputedStyle(document.documentElement), named = {};
  for (const name of ["ink", "soft", "line", "paper", "panel", "accent", "mark", "strip-low", "strip-high"]) named[name] = style.getPropertyValue("--" + name).trim();
  return { colors, ...named };
}

// The units that have a row: the first of the list, and the chosen one.
function shownUnits() {
  const first = S.order.slice(0, ROWS);
  return first.includes(S.unit) ? first : [S.unit, ...first.slice(0, ROWS - 1)];
}

// The steps that are drawn: they move when `step` comes near their end, and not (null) while something among them is pointed at.
function windowAt(step) {
  const canvas = el("strips"), width = canvas.clientWidth;
  const text = S.about.kind === "text";
  strips.column = text && S.about.by_character ? 9 : text ? 22 : Math.max(4, Math.min(14, Math.floor((width - strips.left) / S.trace.length)));
  strips.count = Math.max(1, Math.min(S.trace.length, Math.floor((width - strips.left) / strips.column)));
  const most = S.trace.length - strips.count;
  if (step === null && strips.first <= most) return;
  const margin = Math.min(4, Math.floor(strips.count / 8));
  if (step < strips.first + margin || step >= strips.first + strips.count - margin || strips.first > most) {
    strips.first = Math.max(0, Math.min(most, step - Math.floor(strips.count / 2)));
  }
}

function drawStrips() {
  if (!S.trace) return;
  const canvas = el("strips"), width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
  strips.palette = strips.palette || palette();
  const { palette: colors } = strips, step = S.hover ?? S.cursor;
  windowAt(S.pointing === "strips" && S.hover !== null ? null : step);
  const parts = S.trace.parts(S.layer), units = shownUnits();
  const input = S.about.kind !== "text";
  const height = (input ? INPUT + GAP + (S.about.draw === "lines" ? NAMES : 0) : 0) + parts.length * (LANE + 2) + GAP + units.length * ROW + (S.about.labels.length ? INFLUENCE + 8 : 0) + AXIS;
  if (canvas.style.height !== height + "px") canvas.style.height = height + "px";
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  strips.lanes = [];
  let y = 0;
  if (input) {
    drawInput(g, y, colors);
    y += INPUT + GAP + (S.about.draw === "lines" ? NAMES : 0);
  }
  g.textBaseline = "middle";
  for (const part of parts) {
    const largest = S.trace.largest(S.layer, part, Math.min(S.unit, S.trace.size(S.layer, part) - 1));
    label(g, part === S.part ? part + " \u25c2" : part, y + LANE / 2, part === S.part ? colors.ink : colors.soft);
    row(g, part, Math.min(S.unit, S.trace.size(S.layer, part) - 1), largest, y, LANE);
    strips.lanes.push({ y, height: LANE, part });
    y += LANE + 2;
  }
  y += GAP - 2;
  const top = y;
  units.forEach((unit, n) => {
    row(g, S.part, unit, S.largestOf(unit), y, ROW);
    strips.lanes.push({ y, height: ROW, unit });
    if (unit === S.unit || n % 4 === 0) label(g, String(unit), y + ROW / 2, unit === S.unit ? colors.ink : colors.soft, unit === S.unit);
    y += ROW;
  });
  g.strokeStyle = colors.line;
  g.strokeRect(strips.left - 0.5, top - 0.5, strips.count * strips.column + 1, y - top + 1);
  if (units.includes(S.unit)) {
    const at = top + units.indexOf(S.unit) * ROW;
    g.strokeStyle = colors.ink;
    g.strokeRect(strips.left - 0.5, at - 0.5, strips.count * strips.column + 1, ROW + 1);
  }
  const bottom = y;
  if (S.about.labels.length) {
    y += INFLUENCE + 8;
    influenceLane(g, y, colors);
  }
  axis(g, y, colors);
  cursorLine(g, step, y, colors);
  g.save();
  g.translate(9, top + (bottom - top) / 2);
  g.rotate(-Math.PI / 2);
  g.textAlign = "center";
  g.font = "11px system-ui, sans-serif";
  g.fillStyle = colors.soft;
  g.fillText("unit of " + S.layer + ", its " + S.part, 0, 0);
  g.restore();
  const last = strips.first + strips.count - 1;
  el("window").textContent = "steps " + strips.first + " to " + last + " of " + S.trace.length;
  canvas.setAttribute("aria-label", "Heat map of " + S.layer + " " + S.part + ", " + units.length + " units over steps " + strips.first + " to " + last +
    ". Unit " + S.unit + " at step " + step + ": " + signed(S.trace.value(S.layer, S.part, S.unit, step)) + ". Arrow keys choose step and unit.");
}

function label(g, text, y, color, strong) {
  g.font = (strong ? "600 " : "") + "11px system-ui, sans-serif";
  g.textAlign = "right";
  g.fillStyle = color;
  g.fillText(text, strips.left - 8, y + 0.5);
}

function row(g, part, unit, largest, y, height) {
  const { colors } = strips.palette;
  for (let n = 0; n < strips.count; n++) {
    const level = Math.round(10 * relative(part, S.trace.value(S.layer, part, unit, strips.first + n), largest)) + 10;
    g.fillStyle = colors[level];
    g.fillRect(strips.left + n * strips.column, y, strips.column, height);
  }
}

function axis(g, y, colors) {
  const text = S.about.kind === "text";
  g.textAlign = "center";
  g.fillStyle = colors.ink;
  if (text) {
    g.font = (S.about.by_character ? "11px " : "10px ") + "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
    for (let n = 0; n < strips.count; n++) {
      const name = S.trace.names[strips.first + n];
      const mark = name === " " ? "" : name === "\n" ? "\u21b5" : shown(name).trim().slice(0, S.about.by_character ? 1 : 3);
      g.fillText(mark, strips.left + (n + 0.5) * strips.column, y + 9);
    }
  }
  g.font = "11px system-ui, sans-serif";
  g.fillStyle = colors.soft;
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000].find((each) => each * strips.column >= 44) || 5000;
  for (let n = 0; n < strips.count; n++) {
    const step = strips.first + n;
    if (step % every) continue;
    const x = strips.left + (n + 0.5) * strips.column;
    g.fillRect(Math.round(x), y + (text ? 16 : 2), 1, 4);
    const seconds = S.about.seconds, shownAs = seconds ? (step * seconds).toFixed(seconds * every < 0.1 ? 2 : 1) : String(step);
    if (x > strips.left + strips.count * strips.column - 8) continue;
    g.textAlign = x - strips.left < 10 ? "left" : "center";
    g.fillText(shownAs, g.textAlign === "left" ? strips.left : x, y + (text ? 26 : 13));
  }
  label(g, S.about.seconds ? "seconds" : "step", y + (text ? 26 : 13), colors.soft);
}

function cursorLine(g, step, y, colors) {
  const n = step - strips.first;
  if (n < 0 || n >= strips.count) return;
  g.strokeStyle = colors.ink;
  g.strokeRect(strips.left + n * strips.column - 0.5, 0.5, strips.column + 1, y - 1);
}

// How much the prediction at the cursor depends on each step, as bars.
function influenceLane(g, y, colors) {
  label(g, "influence", y - INFLUENCE / 2, colors.soft);
  g.fillStyle = colors.line;
  g.fillRect(strips.left, y, strips.count * strips.column, 1);
  const influence = S.influence && S.influence.values;
  if (!influence) return;
  g.fillStyle = colors.mark;
  for (const [at, part] of influence) {
    const place = at - strips.first;
    if (place < 0 || place >= strips.count || part < 0.004) continue;
    const height = Math.max(1, part * INFLUENCE);
    g.fillRect(strips.left + place * strips.column + 0.5, y - height, Math.max(1, strips.column - 1), height);
  }
}

function drawInput(g, y, colors) {
  const { first, count, column, left } = strips;
  if (S.about.draw === "image") drawImages(g, y, colors);
  else if (S.about.draw === "spectrogram") drawSpectrogram(g, y);
  else {
    const columns = Math.min(8, S.trace.input(first).length), dashes = [[], [5, 3], [2, 2], [8, 3, 2, 3]];
    let most = 1e-9;
    for (let n = 0; n < count; n++) for (const value of S.trace.input(first + n).slice(0, columns)) most = Math.max(most, Math.abs(value));
    for (let which = 0; which < columns; which++) {
      g.beginPath();
      g.setLineDash(dashes[which % 4]);
      g.strokeStyle = [colors.ink, colors.accent, colors["strip-high"], colors.mark][which % 4];
      g.lineWidth = 1.5;
      for (let n = 0; n < count; n++) g.lineTo(left + (n + 0.5) * column, y + INPUT / 2 - (S.trace.input(first + n)[which] / most) * (INPUT / 2 - 3));
      g.stroke();
    }
    g.textAlign = "left";
    g.textBaseline = "middle";
    g.font = "11px system-ui, sans-serif";
    let x = left + 6;
    for (let which = 0; which < columns && columns > 1; which++) {
      const name = (S.about.columns || [])[which] || "input " + (which + 1);
      g.fillStyle = g.strokeStyle = [colors.ink, colors.accent, colors["strip-high"], colors.mark][which % 4];
      g.setLineDash(dashes[which % 4]);
      g.beginPath();
      g.moveTo(x, y + INPUT + 8);
      g.lineTo(x + 22, y + INPUT + 8);
      g.stroke();
      g.fillStyle = colors.soft;
      g.fillText(name, x + 27, y + INPUT + 8);
      x += 40 + g.measureText(name).width;
      if (x > left + count * column - 60) break;
    }
    g.setLineDash([]);
    g.lineWidth = 1;
    label(g, "+" + most.toPrecision(2), y + 6, colors.soft);
    label(g, "\u2212" + most.toPrecision(2), y + INPUT - 6, colors.soft);
  }
  g.textBaseline = "middle";
  label(g, S.about.draw === "spectrogram" ? "high" : "", y + 6, colors.soft);
  label(g, S.about.draw === "spectrogram" ? "low" : "", y + INPUT - 6, colors.soft);
  label(g, S.about.draw === "image" ? "frame" : "input", y + INPUT / 2, colors.soft);
  g.strokeStyle = colors.line;
  g.strokeRect(left - 0.5, y + 0.5, count * column + 1, INPUT - 1);
}

function drawImages(g, y, colors) {
  const [high, wide, channels] = S.about.frame, size = INPUT - 6, width = (size * wide) / high;
  const every = Math.max(1, Math.ceil((width + 4) / strips.column));
  const canvas = drawImages.canvas || (drawImages.canvas = document.createElement("canvas"));
  canvas.width = wide;
  canvas.height = high;
  const small = canvas.getContext("2d");
  for (let n = 0; n + every <= strips.count + every - 1; n += every) {
    const values = S.trace.input(strips.first + n), image = small.createImageData(wide, high);
    let least = Infinity, most = -Infinity;
    for (const value of values) [least, most] = [Math.min(least, value), Math.max(most, value)];
    for (let at = 0; at < high * wide; at++) {
      for (let c = 0; c < 3; c++) image.data[at * 4 + c] = (255 * (values[at * channels + Math.min(c, channels - 1)] - least)) / (most - least || 1);
      image.data[at * 4 + 3] = 255;
    }
    small.putImageData(image, 0, 0);
    g.imageSmoothingEnabled = false;
    const x = strips.left + n * strips.column;
    if (x + width <= strips.left + strips.count * strips.column + 2) g.drawImage(canvas, x + 1, y + 3, width, size);
  }
}

function drawSpectrogram(g, y) {
  const stack = S.about.stack || 1, { first, count, column, left } = strips, wide = column / stack;
  let least = Infinity, most = -Infinity;
  const rows = [];
  for (let n = 0; n < count; n++) {
    const values = S.trace.input(first + n);
    rows.push(values);
    for (const value of values) [least, most] = [Math.min(least, value), Math.max(most, value)];
  }
  const bands = rows[0].length / stack, tall = INPUT / bands;
  rows.forEach((values, n) => {
    for (let frame = 0; frame < stack; frame++) {
      for (let band = 0; band < bands; band++) {
        const level = (values[frame * bands + band] - least) / (most - least || 1);
        g.fillStyle = strips.palette.colors[10 + Math.round(level * 10)];
        g.fillRect(left + n * column + frame * wide, y + INPUT - (band + 1) * tall, wide + 0.5, tall + 0.5);
      }
    }
  });
}

function wireStrips() {
  const canvas = el("strips");
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const step = strips.first + Math.floor((event.clientX - box.left - strips.left) / strips.column);
    const lane = strips.lanes.find((each) => event.clientY - box.top >= each.y && event.clientY - box.top < each.y + each.height);
    return { step: step >= strips.first && step < strips.first + strips.count ? step : null, lane };
  };
  canvas.addEventListener("pointermove", (event) => {
    if (!S.trace || event.pointerType === "touch") return;
    const { step } = place(event);
    if (step !== S.hover) { S.hover = step; S.pointing = "strips"; showStep(); }
  });
  canvas.addEventListener("pointerleave", () => { S.hover = null; if (S.trace) showStep(); });
  canvas.addEventListener("click", (event) => {
    if (!S.trace) return;
    const { step, lane } = place(event);
    S.hover = null;
    if (lane && lane.unit !== undefined) chooseUnit(lane.unit);
    if (lane && lane.part) choosePart(lane.part);
    if (step !== null) moveTo(step, { focus: false });
  });
  canvas.addEventListener("keydown", (event) => {
    if (!S.trace) return;
    const units = shownUnits(), at = units.indexOf(S.unit), last = units.length - 1;
    if (event.key === "ArrowLeft") moveTo(S.cursor - 1, { focus: false, extend: event.shiftKey });
    else if (event.key === "ArrowRight") moveTo(S.cursor + 1, { focus: false, extend: event.shiftKey });
    else if (event.key === "ArrowUp") chooseUnit(units[Math.max(0, at - 1)]);
    else if (event.key === "ArrowDown") chooseUnit(units[Math.min(last, at + 1)]);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => drawStrips()).observe(canvas.parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { strips.palette = null; drawStrips(); });
}
