// A payload decoded: values by layer, part, unit and step. A trace grows by segments, as a text is continued.

function bytes(text) {
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let n = 0; n < raw.length; n++) found[n] = raw.charCodeAt(n);
  return found;
}

class Segment {
  constructor(payload) {
    this.first = payload.first;
    this.length = payload.names.length - payload.first;
    this.layers = {};
    for (const layer of payload.layers) {
      this.layers[layer.name] = {};
      for (const [part, kept] of Object.entries(layer.parts)) {
        this.layers[layer.name][part] = { size: kept.size, unit: kept.scale / 127, data: new Int8Array(bytes(kept.data).buffer) };
      }
    }
    this.top = null;
    if (payload.top) {
      const ids = bytes(payload.top.ids).buffer;
      this.top = {
        k: payload.top.k,
        ids: payload.top.wide ? new Uint32Array(ids) : new Uint16Array(ids),
        p: new Uint16Array(bytes(payload.top.p).buffer),
        none: new Set(payload.top.none),
      };
    }
    this.logP = payload.log_p ? new Float32Array(bytes(payload.log_p).buffer) : null;
    this.input = payload.input ? { size: payload.input.size, unit: payload.input.scale / 127, data: new Int8Array(bytes(payload.input.data).buffer) } : null;
  }
}

class Trace {
  constructor(payload) {
    this.segments = [new Segment(payload)];
    this.names = payload.names;
    this.unknown = new Set(payload.unknown);
    this.ids = payload.ids || null;
    this.truth = payload.truth;
    this.remark = payload.remark;
    this.units = payload.units || null;
    this.withoutGates = payload.without_gates;
    this.most = new Map();
    this.written = payload.names.length; // steps from here on were generated
  }

  get length() { return this.names.length; }

  // The same steps before `step`, then those of `payload`.
  continued(payload, written) {
    const other = Object.create(Trace.prototype);
    Object.assign(other, this);
    other.most = new Map();
    other.segments = this.segments.filter((each) => each.first < payload.first);
    other.segments.push(new Segment(payload));
    other.names = payload.names;
    other.ids = payload.ids || null;
    other.unknown = new Set(payload.unknown);
    other.written = Math.min(written, payload.names.length);
    return other;
  }

  // The first `length` steps.
  cut(length) {
    const other = Object.create(Trace.prototype);
    Object.assign(other, this);
    other.most = new Map();
    other.segments = this.segments.filter((each) => each.first < length);
    other.names = this.names.slice(0, length);
    other.ids = this.ids && this.ids.slice(0, length);
    other.written = Math.min(this.written, length);
    return other;
  }

  at(step) {
    for (let n = this.segments.length - 1; n > 0; n--) if (this.segments[n].first <= step) return this.segments[n];
    return this.segments[0];
  }

  parts(layer) { return Object.keys(this.segments[0].layers[layer]); }

  layers() { return Object.keys(this.segments[0].layers); }

  size(layer, part) { return this.segments[0].layers[layer][part].size; }

  value(layer, part, unit, step) {
    const segment = this.at(step), kept = segment.layers[layer][part];
    return kept.data[(step - segment.first) * kept.size + unit] * kept.unit;
  }

  // The largest magnitude of a unit over all steps.
  largest(layer, part, unit) {
    const key = layer + "/" + part + "/" + unit;
    let found = this.most.get(key);
    if (found !== undefined) return found;
    found = 0;
    for (let step = 0; step < this.length; step++) found = Math.max(found, Math.abs(this.value(layer, part, unit, step)));
    this.most.set(key, found);
    return found;
  }

  // [{id, p}] of a step, likeliest first; null where the model gives none.
  answers(step) {
    const segment = this.at(step), top = segment.top, place = step - segment.first;
    if (!top || top.none.has(place)) return null;
    const found = [];
    for (let n = 0; n < top.k; n++) found.push({ id: top.ids[place * top.k + n], p: top.p[place * top.k + n] / 65535 });
    return found;
  }

  // log p of the symbol at a step, in nats; NaN where there is none.
  logP(step) {
    const segment = this.at(step);
    return segment.logP ? segment.logP[step - segment.first] : NaN;
  }

  input(step) {
    const segment = this.at(step), kept = segment.input;
    if (!kept) return null;
    const place = (step - segment.first) * kept.size, found = new Float32Array(kept.size);
    for (let n = 0; n < kept.size; n++) found[n] = kept.data[place + n] * kept.unit;
    return found;
  }
}

// A gate whose values lie between 0 and 1 is centred on 0.5, everything else on 0.
const CENTRED = { i: 0.5, f: 0.5, o: 0.5, r: 0.5, z: 0.5 };

// -1 to 1: where a value lies between the least and the most that a unit shows.
function relative(part, value, largest) {
  const centre = CENTRED[part] || 0;
  const reach = centre ? 0.5 : largest;
  return reach > 0 ? Math.max(-1, Math.min(1, (value - centre) / reach)) : 0;
}

const NAMED = { 0: "NUL", 9: "TAB", 10: "\u21b5", 13: "CR", 27: "ESC", 32: " ", 127: "DEL", 160: "NBSP", 173: "SHY", 65279: "BOM" };

// What is shown of a symbol: control characters, separators and marks that would change the direction of the text by name.
function shown(name) {
  if (name === "") return "\u2205";
  let found = "";
  for (const character of name) {
    const code = character.codePointAt(0);
    if (code in NAMED) found += code === 32 || code === 10 ? NAMED[code] : "<" + NAMED[code] + ">";
    else if (/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Co}]/u.test(character)) found += "<U+" + code.toString(16).toUpperCase().padStart(4, "0") + ">";
    else found += character;
  }
  return found;
}

// The same where a space alone would not be seen.
function named(name) {
  if (name === " ") return "space";
  if (name === "\n") return "new line";
  return shown(name);
}

function percent(p) {
  if (p >= 0.0995) return Math.round(p * 100) + " %";
  if (p >= 0.001) return (p * 100).toFixed(1) + " %";
  return p > 0 ? "< 0.1 %" : "0 %";
}

function signed(value) { return (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2); }
