// Places where the same units are on (Strobelt et al. 2018, LSTMVis). A unit is on at a step where its value has the sign that it
// has at the beginning of the selection, and at least `threshold` of its largest magnitude.

// Units that are on from `a` to `b` and, where `bounded`, off just before and just after, as [{unit, sign, least}].
function unitsOn(trace, layer, part, a, b, threshold, bounded) {
  const found = [];
  for (let unit = 0; unit < trace.size(layer, part); unit++) {
    const largest = trace.largest(layer, part, unit);
    if (!(largest > 0)) continue;
    const sign = Math.sign(trace.value(layer, part, unit, a)) || 1, least = threshold * largest;
    const on = (step) => sign * trace.value(layer, part, unit, step) >= least;
    let all = true;
    for (let step = a; all && step <= b; step++) all = on(step);
    const ends = !bounded || ((a === 0 || !on(a - 1)) && (b === trace.length - 1 || !on(b + 1)));
    if (all && ends) found.push({ unit, sign, least });
  }
  return found;
}

// Other places, as [{first, last, shared}]: every longest run of one of the units, with the number of them that are on throughout
// it; sorted by that number, then by how near their length is to the selection's. Places that overlap a better one are left out.
function similarPlaces(trace, layer, part, a, b, units, most) {
  const runs = new Map(), spans = [];
  for (const { unit, sign, least } of units) {
    const own = [];
    let first = -1;
    for (let step = 0; step <= trace.length; step++) {
      const on = step < trace.length && sign * trace.value(layer, part, unit, step) >= least;
      if (on && first < 0) first = step;
      if (!on && first >= 0) {
        own.push([first, step - 1]);
        runs.set(first + "," + (step - 1), [first, step - 1]);
        first = -1;
      }
    }
    spans.push(own);
  }
  const wanted = b - a + 1, found = [];
  const pointers = spans.map(() => 0);
  for (const [first, last] of [...runs.values()].sort((x, y) => x[0] - y[0])) {
    if (first <= b && last >= a) continue;
    let shared = 0;
    spans.forEach((own, n) => {
      while (pointers[n] < own.length && own[pointers[n]][1] < first) pointers[n]++;
      const run = own[pointers[n]];
      if (run && run[0] <= first && run[1] >= last) shared++;
    });
    found.push({ first, last, shared });
  }
  const off = (place) => Math.abs(place.last - place.first + 1 - wanted);
  found.sort((x, y) => y.shared - x.shared || off(x) - off(y) || x.first - y.first);
  const kept = [];
  for (const place of found) {
    if (kept.length === most) break;
    if (!kept.some((other) => place.first <= other.last && place.last >= other.first)) kept.push(place);
  }
  return kept;
}
