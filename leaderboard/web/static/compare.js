// Two to five rows of a static site side by side, computed from one file for each row as the
// service does it: paired differences, the sign test, the smallest difference that could be seen.
// The address says which rows: #ID,ID,...;REFERENCE
"use strict";

const TO_DETECTABLE = 2.8015852 / 1.959964; // an interval's reach to what is seen with 80% power
const main = document.querySelector(".compare-rows");
const status = main.querySelector("[role=status]");

// ---- numbers

function lgamma(x) {
  const parts = [
    676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
    12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
  ];
  if (x < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * x)) - lgamma(1 - x);
  let sum = 0.99999999999980993;
  parts.forEach((part, k) => (sum += part / (x + k)));
  const t = x + 6.5;
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(sum);
}

// The regularised incomplete beta function, by Lentz's continued fraction.
function beta(x, a, b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - beta(1 - x, b, a);
  const front = Math.exp(
    lgamma(a + b) - lgamma(a) - lgamma(b) + a * Math.log(x) + b * Math.log1p(-x),
  );
  let [c, d] = [1, 1 / (1 - ((a + b) * x) / (a + 1))];
  let value = d;
  for (let m = 1; m < 10000; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / (1 + even * d);
    c = 1 + even / c;
    value *= d * c;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / (1 + odd * d);
    c = 1 + odd / c;
    value *= d * c;
    if (Math.abs(d * c - 1) < 1e-14) break;
  }
  return (front * value) / a;
}

// The quantile of Student's t, for probabilities above a half; many degrees are the normal's.
function quantile(probability, degrees) {
  const free = Math.min(degrees, 1e6);
  const above = (t) => beta(free / (free + t * t), free / 2, 0.5) / 2;
  let [low, high] = [0, 2];
  while (above(high) > 1 - probability) high *= 2;
  for (let k = 0; k < 80; k++) {
    const middle = (low + high) / 2;
    if (above(middle) > 1 - probability) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function variance(values) {
  const middle = mean(values);
  return values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1);
}

// A 95% interval: Student's t with Welch and Satterthwaite's degrees of freedom; the chance of an
// error on the side of the best of n tries is shared among them.
function interval(value, parts, items, tries = [1, 1]) {
  const total = parts.reduce((sum, [part]) => sum + part, 0) + items;
  if (total === 0) return [value, value];
  const uncertain = parts.reduce((sum, [part, free]) => sum + (free >= 1 ? part ** 2 / free : 0), 0);
  const degrees = uncertain ? total ** 2 / uncertain : Infinity;
  const [below, above] = tries.map((n) => quantile(1 - 0.025 / n, degrees) * Math.sqrt(total));
  return [value - below, value + above];
}

function signTest(wins, losses) {
  const number = wins + losses;
  if (!number) return 1;
  let [log, half] = [0, Math.exp(-number * Math.LN2)];
  for (let k = 1; k <= Math.min(wins, losses); k++) {
    log += Math.log((number + 1 - k) / k);
    half += Math.exp(log - number * Math.LN2);
  }
  return Math.min(1, 2 * half);
}

// ---- what a row's file holds

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);

// What each question adds to a task, by the question's number.
function answersOf(packed) {
  let values;
  if (packed.floats !== undefined) values = [...floatsOf(packed.floats)];
  else {
    const bytes = bytesOf(packed.codes);
    values = new Array(packed.number);
    for (let k = 0; k < packed.number; k++) {
      let code = 0;
      for (let b = 0; b < packed.width; b++) {
        const at = k * packed.width + b;
        code |= ((bytes[at >> 3] >> (at & 7)) & 1) << b;
      }
      values[k] = packed.levels[code];
    }
  }
  return new Map(values.map((value, k) => [packed.numbers ? packed.numbers[k] : k, value]));
}

function byName(list) {
  return new Map(list.map((entry) => [entry.name, entry]));
}

// ---- differences: the other minus the reference, where positive is better

function figureApart(reference, other, name) {
  const [a, b] = [byName(reference.figures).get(name), byName(other.figures).get(name)];
  const sign = a.higher ? 1 : -1;
  let items;
  if (a.draws && b.draws) {
    const [first, second] = [floatsOf(a.draws), floatsOf(b.draws)];
    items = variance([...first].map((value, k) => value - second[k]));
  } else if (a.item_error === null || b.item_error === null) return null;
  else items = a.item_error ** 2 + b.item_error ** 2;
  const scores = new Map(other.seeds.map((seed, k) => [seed, b.values[k]]));
  const common = reference.seeds.filter((seed) => scores.has(seed));
  const parts = [];
  if (common.length >= 2 && common.length === a.values.length && common.length === b.values.length) {
    const apart = reference.seeds.map((seed, k) => a.values[k] - scores.get(seed));
    parts.push([variance(apart) / apart.length, apart.length - 1]);
  } else {
    let [total, freedom] = [0, Infinity];
    for (const values of [a.values, b.values]) {
      if (values.length > 1) {
        total += variance(values) / values.length;
        freedom = Math.min(freedom, values.length - 1);
      } else if (a.noise) {
        total += a.noise.variance;
        freedom = Math.min(freedom, a.noise.freedom);
      }
    }
    parts.push([total, freedom]);
  }
  if (reference.dataset !== other.dataset && a.noise && b.noise) {
    const data = new Map();
    for (const [kind, part, free] of [...a.noise.data, ...b.noise.data])
      data.set(kind, [(data.get(kind)?.[0] ?? 0) + part, free]);
    parts.push(...data.values());
  }
  const [low, high] = interval(sign * (a.value - b.value), parts, items, [reference.tries, other.tries]);
  return { value: sign * (b.value - a.value), low: -high, high: -low };
}

function pairOf(reference, other, name) {
  const [a, b] = [byName(reference.tasks).get(name), byName(other.tasks).get(name)];
  if (!a?.answers || !b?.answers) return null;
  const [first, second] = [answersOf(a.answers), answersOf(b.answers)];
  const apart = [];
  for (const [number, value] of first) if (second.has(number)) apart.push(second.get(number) - value);
  if (apart.length < 2) return null;
  const wins = apart.filter((value) => value > 1e-12).length;
  const losses = apart.filter((value) => value < -1e-12).length;
  return {
    wins,
    losses,
    ties: apart.length - wins - losses,
    p: signTest(wins, losses),
    squared: variance(apart) / apart.length,
  };
}

function taskApart(reference, other, name, pair) {
  const [a, b] = [byName(reference.tasks).get(name), byName(other.tasks).get(name)];
  if (!b) return null;
  const value = (a.higher ? 1 : -1) * (b.value - a.value);
  let squared = pair?.squared;
  if (squared === undefined) {
    if (a.stderr === null || b.stderr === null) return null;
    squared = a.stderr ** 2 + b.stderr ** 2;
  }
  const [low, high] = interval(value, [], squared);
  return { value, low, high };
}

function categoryApart(reference, other, name, pairs) {
  const [a, b] = [byName(reference.categories).get(name), byName(other.categories).get(name)];
  if (!b || a.tasks.join() !== b.tasks.join()) return null;
  let squared = 0;
  for (const [k, task] of a.tasks.entries()) {
    if (!pairs.get(task)) return null;
    squared += pairs.get(task).squared * a.scales[k] ** 2;
  }
  const [low, high] = interval(b.value - a.value, [], squared / a.tasks.length ** 2);
  return { value: b.value - a.value, low, high };
}

// ---- the page

function make(name, text = "", attributes = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const titleOf = (row) => (row.word ? `${row.method} (${row.word})` : row.method);
const signed = (value) => `${value < 0 ? "-" : "+"}${Math.abs(value).toFixed(4)}`;
const words = (name) => name.replace(/_/g, " ");

function apartCell(apart) {
  if (!apart) return make("td", "not known");
  const holdsZero = apart.low <= 0 && apart.high >= 0;
  const cell = make("td", `${signed(apart.value)} [${signed(apart.low)}, ${signed(apart.high)}] `);
  if (!holdsZero) cell.className = apart.value > 0 ? "right" : "wrong";
  const seen = ((apart.high - apart.low) / 2) * TO_DETECTABLE;
  cell.append(make("small", `could see ${seen.toFixed(4)}`));
  return cell;
}

function pairCell(pair) {
  if (!pair) return make("td", "-", { class: "n" });
  const cell = make("td", `${pair.wins}, ${pair.losses}, ${pair.ties} `, { class: "n" });
  cell.append(make("small", `p ${pair.p < 0.001 ? "< 0.001" : pair.p.toFixed(3)}`));
  return cell;
}

function headOf(rows, comparable) {
  const line = document.createElement("tr");
  line.append(make("th", "Task", { scope: "col" }));
  rows.forEach((row, k) => {
    const head = make("th", "", { scope: "col", class: "n" });
    head.append(make("a", titleOf(row), { href: `../submissions/${row.id}.html` }));
    line.append(head);
    if (!k || !comparable) return;
    line.append(make("th", "Better by (95%)", { scope: "col" }));
    line.append(make("th", "Won, lost, tied", { scope: "col", class: "n" }));
  });
  const head = document.createElement("thead");
  head.append(line);
  return head;
}

function partOf(title, names, rows, kind, comparable, pairs) {
  const body = document.createElement("tbody");
  const top = make("tr", "", { class: "part" });
  top.append(make("th", title, { scope: "rowgroup", colspan: String(rows.length * 3) }));
  body.append(top);
  for (const name of names) {
    const line = make("tr", "", kind === "figures" ? { class: "lead" } : {});
    line.append(make("th", words(name), { scope: "row" }));
    rows.forEach((row, k) => {
      const entry = byName(row[kind]).get(name);
      line.append(make("td", entry ? entry.value.toFixed(4) : "-", { class: "n" }));
      if (!k || !comparable) return;
      const pair = pairs[k].get(name);
      const apart = {
        figures: () => figureApart(rows[0], row, name),
        categories: () => categoryApart(rows[0], row, name, pairs[k]),
        tasks: () => taskApart(rows[0], row, name, pair),
      }[kind]();
      line.append(apartCell(apart), pairCell(kind === "tasks" ? pair : null));
    });
    body.append(line);
  }
  return body;
}

function show(rows) {
  const apart = Object.keys(rows[0].of).filter((name) => rows.some((row) => row.of[name] !== rows[0].of[name]));
  const comparable = apart.length === 0;
  const tasks = rows[0].tasks.map((task) => task.name);
  const pairs = rows.map((row, k) =>
    k && comparable ? new Map(tasks.map((name) => [name, pairOf(rows[0], row, name)])) : new Map(),
  );
  const table = make("table", "", { class: "compare" });
  table.append(headOf(rows, comparable));
  const shared = rows[0].figures.map((f) => f.name).filter((name) => rows.every((row) => byName(row.figures).has(name)));
  const categories = rows[0].categories.map((category) => category.name);
  if (shared.length) table.append(partOf("Figures", shared, rows, "figures", comparable, pairs));
  if (categories.length)
    table.append(partOf("Categories: means of centered tasks", categories, rows, "categories", comparable, pairs));
  if (tasks.length) table.append(partOf("Tasks", tasks, rows, "tasks", comparable, pairs));
  main.querySelector(".scroll").replaceChildren(table);
  main.querySelector(".scroll").hidden = false;
  main.querySelector("h1").textContent = `Compare: ${rows.map(titleOf).join(", ")}`;
  document.title = `Compare: ${rows.map(titleOf).join(", ")}`;
  const long = [...new Set(rows.flatMap((row) => row.left_out))];
  status.textContent = comparable
    ? `Differences are to ${titleOf(rows[0])}, with paired 95% intervals; positive is better.` +
      (long.length ? ` Too long for this site, so not paired: ${long.map(words).join(", ")}.` : "")
    : `These rows cannot be compared: they are of another ${apart.join(", ")}. Their scores are listed without differences.`;
}

function choice(rows) {
  const form = main.querySelector(".filters");
  const select = form.querySelector("select");
  const ids = location.hash.slice(1).split(";")[0].split(",");
  const ordered = ids.map((id) => rows.find((row) => row.id === id)).filter(Boolean);
  select.replaceChildren(...ordered.map((row) => make("option", titleOf(row), { value: row.id })));
  select.value = rows[0].id;
  select.onchange = () => (location.hash = `${ids.join(",")};${select.value}`);
  form.hidden = false;
}

async function load() {
  const [list, reference] = location.hash.slice(1).split(";");
  const ids = [...new Set(list.split(",").filter((id) => /^[0-9a-f]{32}$/.test(id)))];
  if (ids.length < 2 || ids.length > 5) {
    status.textContent = "Choose two to five rows on a board, then “Compare the chosen rows”.";
    return;
  }
  ids.sort((a, b) => (b === reference) - (a === reference));
  try {
    const rows = await Promise.all(
      ids.map(async (id) => {
        const answer = await fetch(`${id}.json`);
        if (!answer.ok) throw new Error(id);
        return answer.json();
      }),
    );
    show(rows);
    choice(rows);
  } catch {
    status.textContent =
      "The files of these rows could not be read. A browser reads them from a web server alone: python -m http.server";
  }
}

window.addEventListener("hashchange", load);
load();
