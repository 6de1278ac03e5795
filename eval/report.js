"use strict";

// Draws the page from the data in it; report.py says what those are. Their texts can be anything: they become text
// nodes, or go through plain() where plotly would read markup.

const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 720px)");

const find = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const shorten = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

// Plots do not follow the page's colours and width by themselves.
function keepDrawn(draw) {
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
}

// -------------------------------------------------------------------------------------------------- colours

const SCALE = [
  "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c",
  "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725",
]; // viridis, which rises in lightness and can be told apart by colour-blind readers

const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
const hex = (rgb) => `#${rgb.map((value) => Math.round(value).toString(16).padStart(2, "0")).join("")}`;

function mix(from, to, share) {
  const [a, b] = [channels(from), channels(to)];
  return hex(a.map((value, i) => value + share * (b[i] - value)));
}

/** The colour at a share from 0 to 1 of the scale. */
function scaled(share) {
  const place = share * (SCALE.length - 1);
  const below = Math.min(Math.floor(place), SCALE.length - 2);
  return mix(SCALE[below], SCALE[below + 1], place - below);
}

/** Black or white, whichever is easier to read on a colour: a contrast of at least 4.5. */
function ink(colour) {
  const linear = (share) => (share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
  const [red, green, blue] = channels(colour).map((value) => linear(value / 255));
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return luminance > 0.179 ? "#000000" : "#ffffff";
}

/** A family's colour, lighter on a dark page; black is the page's own there. */
function tone(colour) {
  if (!dark.matches) return colour;
  return colour === "#000000" ? shade("text") : mix(colour, "#ffffff", 0.35);
}

/** The page's colour of a name. */
const shade = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// -------------------------------------------------------------------------------------------- answers and facts

for (const [condition, sentence] of data.answers) {
  const which = data.answers.length > 1 ? [make("strong", { textContent: condition }), " "] : [];
  find("answers").append(make("p", {}, ...which, sentence));
}
find("answers-how").hidden = !data.conditions.some(({ entries }) => entries.some(({ learned }) => learned));

for (const [name, value] of data.facts) {
  const entry = make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }));
  entry.classList.toggle("long", value.length > 60);
  find("facts").append(entry);
}

// ----------------------------------------------------------------------------------------------------- tabs

/** One tab for each condition, after the ARIA pattern: arrow keys move, and what has focus is shown. */
function tabs(host, show) {
  const panel = find(host.dataset.panel);
  const buttons = data.conditions.map((condition, i) =>
    make("button", { type: "button", id: `${host.id}-${i}`, role: "tab", textContent: condition.title }));
  const choose = (chosen) => {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-selected", i === chosen);
      button.tabIndex = i === chosen ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", buttons[chosen].id);
    show(chosen);
  };
  buttons.forEach((button, i) => {
    button.setAttribute("aria-controls", panel.id);
    button.addEventListener("click", () => choose(i));
    button.addEventListener("keydown", (event) => {
      const count = buttons.length;
      const moves = { ArrowRight: (i + 1) % count, ArrowLeft: (i + count - 1) % count, Home: 0, End: count - 1 };
      const to = moves[event.key];
      if (to === undefined) return;
      event.preventDefault();
      buttons[to].focus();
      choose(to);
    });
  });
  panel.setAttribute("role", "tabpanel");
  host.append(...buttons);
  choose(0);
}

// ------------------------------------------------------------------------------------------- accuracy and speed

// The buttons are named one by one: those that plotly shows by itself can send a plot to its makers' server.
const CONFIG = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
};

const hiddenFamilies = new Set();
let frontCondition = 0;

function frame(more) {
  const text = shade("text");
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: text, size: 13, family: "system-ui, -apple-system, Segoe UI, Roboto, Arial, sans-serif" },
    hoverlabel: {
      align: "left",
      bgcolor: shade("raised"),
      bordercolor: shade("quiet"),
      font: { color: text, size: 13 },
      namelength: 0,
    },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: shade("quiet"), activecolor: text },
    showlegend: false,
    // A finger that moves over a plot scrolls the page.
    dragmode: narrow.matches ? false : "zoom",
    ...more,
  };
}

/** Lines for the box at a point; long ones are broken, since the box has no room for them on a narrow page. */
function hoverText(lines) {
  const width = narrow.matches ? 34 : 64;
  const piece = new RegExp(`.{1,${width}}(?:\\s|$)|.{1,${width}}`, "gsu");
  const broken = lines.flatMap((line) => line.match(piece) ?? [""]);
  return broken.map(plain).join("<br>");
}

const kinds = Object.keys(data.fronts);

/** The lines of what is not learned have the page's colours. */
const frontColour = (kind) =>
  kind === "learned" ? tone(data.fronts[kind].colour) : shade(kind === "oracle" ? "text" : "quiet");

function frontLine(condition, kind) {
  const points = condition.fronts[kind].map((i) => condition.entries[i]);
  const right = Math.max(data.nfe[1] * 1.35, ...points.map((point) => point.nfe));
  const end = points.length ? [[right, points[points.length - 1].accuracy]] : [];
  const steps = [...points.map((point) => [point.nfe, point.accuracy]), ...end];
  return {
    name: data.fronts[kind].name,
    x: steps.map(([x]) => x),
    y: steps.map(([, y]) => y),
    mode: "lines",
    hoverinfo: "skip",
    line: { shape: "hv", width: 2, dash: data.fronts[kind].dash, color: frontColour(kind) },
  };
}

const FRONT_HEIGHT = () => (narrow.matches ? 360 : 460);
const MARGIN = { l: 58, r: 14, t: 34, b: 52 };

/** The entries on a front that get a label: as many as have room above and to the left of their points. */
function labelled(condition) {
  const [low, high] = NFE_RANGE.map(Math.log);
  const width = find("fronts-plot").clientWidth - MARGIN.l - MARGIN.r;
  const height = FRONT_HEIGHT() - MARGIN.t - MARGIN.b;
  const place = (entry) => [(width * (Math.log(entry.nfe) - low)) / (high - low), (height * (1.06 - entry.accuracy)) / 1.1];
  const points = condition.entries.map(place);
  const taken = points.map(([x, y]) => [x - 4, y - 4, x + 4, y + 4]);
  const kept = new Set();
  const order = kinds.flatMap((kind) => condition.fronts[kind]).sort((a, b) =>
    condition.entries[b].learned - condition.entries[a].learned || condition.entries[b].accuracy - condition.entries[a].accuracy);
  for (const i of order) {
    const [x, y] = points[i];
    const box = [x - 6 - 6.5 * condition.entries[i].knob.length, y - 18, x - 6, y - 5];
    const free = taken.every((other) => box[0] > other[2] || box[2] < other[0] || box[1] > other[3] || box[3] < other[1]);
    if (!free || box[0] < 0) continue;
    taken.push(box);
    kept.add(condition.entries[i]);
  }
  return kept;
}

function familyPoints(condition, name, named) {
  const { colour, symbol } = data.families[name];
  const members = condition.entries.filter((entry) => entry.family === name).sort((a, b) => a.nfe - b.nfe);
  const best = new Set(kinds.flatMap((kind) => condition.fronts[kind]).map((i) => condition.entries[i]));
  const learned = members.some((entry) => entry.learned);
  return {
    name: plain(name),
    x: members.map((entry) => entry.nfe),
    y: members.map((entry) => entry.accuracy),
    mode: learned ? "markers+text" : "lines+markers+text",
    line: { color: tone(colour), width: 1 },
    text: members.map((entry) => (named.has(entry) ? plain(entry.knob) : "")),
    textposition: "top left",
    cliponaxis: false,
    textfont: { color: tone(colour), size: 11 },
    marker: {
      color: tone(colour),
      symbol,
      size: learned && members.length < 4 ? 16 : 10,
      line: { color: shade("page"), width: 1 },
      opacity: members.map((entry) => (best.has(entry) ? 1 : 0.4)),
    },
    error_y: {
      type: "data",
      symmetric: false,
      array: members.map((entry) => entry.high - entry.accuracy),
      arrayminus: members.map((entry) => entry.accuracy - entry.low),
      color: tone(colour),
      thickness: 1.4,
      width: 3,
    },
    hoverinfo: "text",
    hovertext: members.map((entry) => hoverText(entry.about)),
  };
}

/** Learned policies last, so that they lie on top. */
const families = Object.keys(data.families).sort((a, b) => isLearned(a) - isLearned(b));

function isLearned(name) {
  return data.conditions.some((condition) => condition.entries.some((entry) => entry.family === name && entry.learned));
}

const NFE_RANGE = [data.nfe[0] / 1.35, data.nfe[1] * 1.35];
// Roundest first.
const NFE_TICKS = [1, 2, 5, 3, 4, 8, 6, 1.5, 2.5]
  .flatMap((n) => [1, 10, 100, 1000].map((ten) => n * ten))
  .filter(Number.isInteger);

/** Plain numbers for the log axis, as many as have room. */
function nfeTicks() {
  const [low, high] = NFE_RANGE;
  const width = find("fronts-plot").clientWidth - 72;
  const pixels = (nfe) => (width * Math.log(nfe / low)) / Math.log(high / low);
  const gap = narrow.matches ? 36 : 60;
  const kept = [];
  for (const tick of NFE_TICKS.filter((nfe) => nfe >= low && nfe <= high)) {
    if (kept.every((other) => Math.abs(pixels(tick) - pixels(other)) > gap)) kept.push(tick);
  }
  return kept.sort((one, other) => one - other);
}

/** Within a part that was zoomed into, plotly finds better ticks. */
function chooseTicks() {
  const { range, tickmode } = find("fronts-plot").layout.xaxis;
  const whole = range.every((end, i) => Math.abs(end - Math.log10(NFE_RANGE[i])) < 1e-9);
  const wanted = whole && nfeTicks().length > 1 ? "array" : "auto";
  if (tickmode !== wanted) Plotly.relayout("fronts-plot", { "xaxis.tickmode": wanted });
}

function drawFront() {
  const condition = data.conditions[frontCondition];
  const named = labelled(condition);
  const traces = [
    ...kinds.map((kind) => frontLine(condition, kind)),
    ...families.map((name) => familyPoints(condition, name, named)),
  ];
  for (const [i, trace] of traces.entries()) {
    trace.visible = trace.x.length > 0 && !hiddenFamilies.has(i < kinds.length ? trace.name : families[i - kinds.length]);
  }
  const line = { gridcolor: shade("grid"), linecolor: shade("line"), zeroline: false };
  const layout = frame({
    height: FRONT_HEIGHT(),
    margin: MARGIN,
    hovermode: "closest",
    xaxis: {
      ...line,
      type: "log",
      range: NFE_RANGE.map(Math.log10),
      tickformat: ",.4~r",
      tickvals: nfeTicks(),
      tickmode: nfeTicks().length > 1 ? "array" : "auto",
      title: { text: `denoiser evaluations ${narrow.matches ? "" : "for a response "}(NFE)`, standoff: 10 },
    },
    yaxis: { ...line, range: [-0.04, 1.06], tickformat: ".0%", title: { text: "accuracy", standoff: 6 } },
  });
  Plotly.react("fronts-plot", traces, layout, CONFIG);
}

// What a symbol of plotly looks like: its corners, how far it is turned, and how deep it is cut in.
const SYMBOLS = {
  circle: [32, 0], square: [4, 45], diamond: [4, 0],
  pentagon: [5, 0], hexagon: [6, 30], hexagon2: [6, 0], octagon: [8, 22.5],
  "triangle-up": [3, 0], "triangle-down": [3, 180], "triangle-left": [3, -90], "triangle-right": [3, 90],
  star: [5, 0, 0.4], cross: [4, 0, 0.38], x: [4, 45, 0.38], "diamond-tall": [4, 0],
};

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function symbolPicture(symbol, colour) {
  const [corners, turn, depth = 1] = SYMBOLS[symbol];
  const count = depth < 1 ? 2 * corners : corners;
  const points = Array.from({ length: count }, (_, i) => {
    const angle = ((turn + (360 * i) / count) * Math.PI) / 180;
    const radius = 6.5 * (i % 2 ? depth : 1);
    return [8 + radius * Math.sin(angle) * (symbol === "diamond-tall" ? 0.6 : 1), 8 - radius * Math.cos(angle)];
  });
  const written = points.map((point) => point.map((value) => value.toFixed(2)).join()).join(" ");
  const mark = svg("polygon", { points: written, fill: colour });
  return svg("svg", { width: 16, height: 16, "aria-hidden": true }, mark);
}

const DASHES = { solid: "none", dash: "5 3", dot: "2 2", dashdot: "6 2 2 2" };

function linePicture(kind) {
  const dash = DASHES[data.fronts[kind].dash];
  const place = { x1: 0, y1: 8, x2: 26, y2: 8 };
  const line = svg("line", { ...place, stroke: frontColour(kind), "stroke-width": 2, "stroke-dasharray": dash });
  return svg("svg", { width: 26, height: 16, "aria-hidden": true }, line);
}

/** The legend: a box for each family and front, which shows and hides it in all conditions. */
function drawLegend() {
  const lines = kinds.filter((kind) => data.conditions.some((condition) => condition.fronts[kind].length));
  const boxes = [
    ...families.map((name) => [name, symbolPicture(data.families[name].symbol, tone(data.families[name].colour))]),
    ...lines.map((kind) => [data.fronts[kind].name, linePicture(kind)]),
  ];
  find("families").querySelectorAll("label").forEach((label) => label.remove());
  for (const [name, picture] of boxes) {
    const box = make("input", { type: "checkbox", checked: !hiddenFamilies.has(name) });
    box.addEventListener("change", () => {
      if (box.checked) hiddenFamilies.delete(name);
      else hiddenFamilies.add(name);
      drawFront();
    });
    find("families").append(make("label", {}, box, picture, name));
  }
}

drawLegend();
tabs(find("fronts-tabs"), (chosen) => {
  frontCondition = chosen;
  drawFront();
});
find("fronts-plot").on("plotly_relayout", chooseTicks);
keepDrawn(() => {
  drawLegend();
  drawFront();
});

// --------------------------------------------------------------------------------------------------- tables

/** Draws a table whose columns sort. Returns its lines, and their texts in small letters. */
function table(host, { columns, lines }) {
  const longest = columns.map((_, i) => Math.max(...lines.map(({ cells }) => cells[i][0].length)));
  const drawn = lines.map(({ bold, cells }) => {
    const made = cells.map(([text, value], i) => {
      const shown = columns[i].number ? text : make("span", { className: "words", textContent: text });
      if (!columns[i].number) shown.style.setProperty("--longest", `${longest[i]}ch`);
      const cell = make(i ? "td" : "th", {}, shown);
      if (!i) cell.scope = "row";
      cell.classList.toggle("more", !columns[i].first);
      cell.classList.toggle("number", columns[i].number);
      return cell;
    });
    const row = make("tr", { className: bold ? "bold" : "" }, ...made);
    return { cells, row, text: cells.map(([text]) => text).join(" ").toLowerCase() };
  });
  const body = make("tbody", {}, ...drawn.map((line) => line.row));
  const heads = columns.map(({ name, about, number, first }, i) => {
    const button = make("button", { type: "button", textContent: name, title: about });
    const head = make("th", { scope: "col" }, button);
    head.classList.toggle("number", number);
    head.classList.toggle("more", !first);
    button.addEventListener("click", () => sort(heads, i, drawn, body));
    return head;
  });
  host.append(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body));
  host.after(meanings(columns));
  if (columns.some(({ first }) => !first)) host.before(allColumns(host));
  return drawn;
}

/** A box that shows the columns which a narrow page leaves out. */
function allColumns(host) {
  const box = make("input", { type: "checkbox" });
  box.addEventListener("change", () => host.classList.toggle("all", box.checked));
  return make("label", { className: "all-columns" }, box, " all columns");
}

function meanings(columns) {
  const entry = ({ name, about }) => [make("dt", { textContent: name }), make("dd", { textContent: about })];
  const summary = make("summary", { textContent: "What the columns mean" });
  return make("details", { className: "meanings" }, summary, make("dl", {}, ...columns.flatMap(entry)));
}

function sort(heads, column, drawn, body) {
  const rising = heads[column].getAttribute("aria-sort") !== "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", rising ? "ascending" : "descending");
  const value = (line) => line.cells[column][1];
  const order = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const missing = (line) => value(line) === null;
  const sorted = [...drawn].sort((a, b) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return (rising ? 1 : -1) * order(value(a), value(b));
  });
  body.append(...sorted.map((line) => line.row));
}

const figures = table(find("figures-table"), data.tables.figures);

function filterFigures() {
  const words = find("figures-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const line of figures) line.row.hidden = !words.every((word) => line.text.includes(word));
  const shown = figures.filter((line) => !line.row.hidden).length;
  find("figures-count").textContent = `${shown} of ${figures.length} lines`;
}

find("figures-filter").addEventListener("input", filterFigures);
filterFigures();

for (const name of ["pairs", "areas"]) {
  const empty = data.tables[name].lines.length === 0;
  find(`${name}-none`).hidden = !empty;
  find(`${name}-table`).hidden = empty;
  if (!empty) table(find(`${name}-table`), data.tables[name]);
}

const timed = data.tables.latency.lines.length > 0;
find("latency").hidden = !timed;
find("latency-machine").textContent = data.machine;
if (timed) table(find("latency-table"), data.tables.latency);

const scored = data.tables.scores.lines.length > 0;
find("scores-part").hidden = !scored;
if (scored) table(find("scores-table"), data.tables.scores);

// --------------------------------------------------------------------------------------------------- viewer

/** Numbers from the text that pack() of report.py made of them. */
function unpack(text) {
  return text === "" ? [] : text.split(" ").flatMap((run) => {
    const [value, count = 1] = run.split("x").map(Number);
    return Array(count).fill(value);
  });
}

const view = { condition: 0, problem: 0, step: 0, steps: 1, timer: 0, panes: [] };
const condition = () => data.conditions[view.condition];
const answerOf = (problem, pane) => problem.answers[pane.policy];

function readAnswer(packed) {
  if (packed === null) return null;
  const [correct, nfe, steps, finished, end, response, words, revealed, confidence] = packed;
  return {
    correct, nfe, steps, finished, end,
    response: data.texts[response],
    words: unpack(words).map((number) => data.texts[number]),
    revealed: unpack(revealed),
    confidence: unpack(confidence),
  };
}

/** [sign, word, class] of a score, or of none. */
function verdict(score) {
  if (score === undefined) return ["–", "this policy was not given this problem", ""];
  if (score >= 1) return ["✓", "right", "right"];
  if (score <= 0) return ["✗", "wrong", "wrong"];
  return ["◐", `partly right (${score.toFixed(2)})`, "partly"];
}

/** A token with what cannot be seen made visible. */
function visible(word) {
  const said = word.replace(/\r?\n/g, "↵").replace(/\t/g, "⇥");
  return said.trim() === "" ? "␣".repeat(Math.max(said.length, 1)) : said;
}

function makePane(name) {
  const root = find("pane").content.cloneNode(true).firstElementChild;
  const part = (selector) => root.querySelector(selector);
  const pane = {
    root, name, policy: 0, answer: null, tokens: [],
    select: part("select"), verdict: part(".verdict"), spent: part(".spent"),
    list: part(".tokens"), response: part(".response"),
  };
  root.setAttribute("aria-label", name);
  part("label span").textContent = name;
  pane.select.id = `viewer-${name.split(" ")[0].toLowerCase()}`;
  pane.select.addEventListener("change", () => {
    pane.policy = Number(pane.select.value);
    listProblems();
    showProblem();
  });
  pane.list.addEventListener("pointerover", (event) => describe(pane, event.target));
  pane.list.addEventListener("click", (event) => describe(pane, event.target));
  find("panes").append(root);
  return pane;
}

function describe(pane, element) {
  const i = pane.tokens.indexOf(element.closest("li"));
  if (i < 0) return;
  const at = pane.answer.revealed[i];
  const place = `${pane.name}, position ${i + 1}`;
  const known = at >= 0 && at < view.step;
  const sure = (pane.answer.confidence[i] / 100).toFixed(2);
  const said = `“${visible(pane.answer.words[i])}”, written in step ${at + 1} with confidence ${sure}`;
  find("token-said").textContent = `${place}: ${known ? said : "still a mask"}`;
}

function showCondition() {
  const { entries, problems, common, samples, opening, remask } = condition();
  view.panes.forEach((pane, i) => {
    pane.select.replaceChildren(...entries.map((entry, j) =>
      make("option", { value: j, textContent: entry.learned ? `${entry.name} (learned)` : entry.label })));
    pane.policy = opening[i];
    pane.select.value = pane.policy;
  });
  const alone = entries.length === 1;
  view.panes[1].root.hidden = alone;
  find("panes").classList.toggle("alone", alone);
  find("viewer-differ-label").hidden = alone;
  find("viewer-differ").checked &&= !alone;
  find("viewer-remask").hidden = !remask;
  const of = common ? `of ${common.toLocaleString("en")} problems that all policies of this condition were given` :
    "problems, none of which was given to all policies of this condition";
  const which = samples ? "; the first of several samples" : "";
  find("viewer-shown").textContent = `Here: ${problems.length} ${of}${which}.`;
  view.problem = 0;
  listProblems();
  showProblem();
}

const differs = (problem) => {
  const answers = view.panes.map((pane) => answerOf(problem, pane));
  return answers.every(Boolean) && answers[0][0] !== answers[1][0];
};

/** Fills the list of problems, each with the signs of both policies; the chosen one stays so if it is there. */
function listProblems() {
  const only = find("viewer-differ").checked;
  const shown = view.panes.filter((pane) => !pane.root.hidden);
  const options = condition().problems.flatMap((problem, i) => {
    if (only && !differs(problem)) return [];
    const signs = shown.map((pane) => verdict(answerOf(problem, pane)?.[0])[0]).join(" ");
    const prompt = shorten(data.texts[problem.prompt].replace(/\s+/g, " "), 48);
    return [make("option", { value: i, textContent: `${problem.name}  ${signs}  ${prompt}` })];
  });
  const select = find("viewer-problem");
  select.replaceChildren(...options);
  const none = options.length === 0;
  const places = options.map((option) => Number(option.value));
  if (!none && !places.includes(view.problem)) view.problem = places[0];
  if (!none) select.value = view.problem;
  select.disabled = none;
  find("viewer-none").hidden = !none;
  find("stage").hidden = none;
}

function showProblem() {
  pause();
  const select = find("viewer-problem");
  find("problem-back").disabled = select.selectedIndex <= 0;
  find("problem-next").disabled = select.selectedIndex >= select.options.length - 1;
  const problem = condition().problems[view.problem];
  find("viewer-prompt").textContent = data.texts[problem.prompt];
  for (const pane of view.panes) pane.answer = readAnswer(answerOf(problem, pane));
  const counts = view.panes.filter((pane) => !pane.root.hidden).map((pane) => pane.answer?.steps ?? 0);
  view.steps = Math.max(1, ...counts);
  for (const pane of view.panes) fillPane(pane);
  find("legend-first").textContent = "step 1";
  find("legend-last").textContent = `step ${view.steps}`;
  find("token-said").textContent = "Point at a token to read more about it.";
  find("step").max = view.steps;
  goTo(view.steps);
}

function fillPane(pane) {
  const { answer } = pane;
  const [sign, word, kind] = verdict(answer?.correct);
  pane.verdict.textContent = `${sign} ${word}`;
  pane.verdict.className = `verdict ${kind}`;
  const steps = answer?.steps === 1 ? "1 step" : `${answer?.steps} steps`;
  const cut = answer?.finished ? "" : ", cut off before it was complete";
  pane.spent.textContent = answer ? `· ${answer.nfe} NFE in ${steps}${cut}` : "";
  pane.response.textContent = answer?.response ?? "";
  pane.tokens = (answer?.words ?? []).map((word, i) => makeToken(answer, i));
  pane.list.replaceChildren(...pane.tokens);
}

function makeToken(answer, i) {
  const token = make("li", { className: "token" });
  const [said, at] = [textOf(answer, i), answer.revealed[i]];
  // A mask is as wide as what comes of it, so that nothing moves.
  token.style.minWidth = `min(100%, ${[...said].length}ch + .8em)`;
  if (at >= 0) {
    const colour = scaled(Math.min(at / Math.max(view.steps - 1, 1), 1));
    token.style.setProperty("--step", colour);
    token.style.setProperty("--step-ink", ink(colour));
    token.style.setProperty("--confidence", `${answer.confidence[i]}%`);
  }
  return token;
}

/** What a token shows; end-of-text, whose name can be long, is a sign. */
function textOf(answer, i) {
  const isEnd = i >= answer.end && answer.words[i] === answer.words[answer.end];
  return isEnd ? "∎" : visible(answer.words[i]);
}

/** Shows how things stand after so many steps. */
function goTo(step) {
  view.step = Math.min(Math.max(step, 0), view.steps);
  for (const { answer, tokens } of view.panes) {
    tokens.forEach((token, i) => {
      const at = answer.revealed[i];
      const known = at >= 0 && at < view.step;
      token.replaceChildren(known ? textOf(answer, i) : make("span", { className: "hidden", textContent: "mask" }));
      token.className = !known ? "token mask" : i >= answer.end ? "token end" : "token";
      token.classList.toggle("new", known && at === view.step - 1 && view.step < view.steps);
    });
  }
  const said = view.step === 0 ? `start, of ${view.steps} steps` : `step ${view.step} of ${view.steps}`;
  find("step").value = view.step;
  find("step").setAttribute("aria-valuetext", said);
  find("step-said").textContent = said;
  find("step-first").disabled = find("step-back").disabled = view.step === 0;
  find("step-on").disabled = find("step-last").disabled = view.step === view.steps;
}

function pause() {
  clearTimeout(view.timer);
  view.timer = 0;
  find("step-play").textContent = "Play";
}

function play() {
  if (view.step === view.steps) goTo(0);
  find("step-play").textContent = "Pause";
  const next = () => {
    goTo(view.step + 1);
    if (view.step === view.steps) pause();
    else wait();
  };
  const wait = () => {
    view.timer = setTimeout(next, 1000 / Number(find("step-speed").value));
  };
  wait();
}

const toggle = () => (view.timer ? pause() : play());

function stepBy(count) {
  pause();
  goTo(view.step + count);
}

/** Arrow keys and space, where the element that has the focus does not use them itself. */
function stageKey(event) {
  const tag = event.target.tagName;
  if (event.altKey || event.ctrlKey || event.metaKey || tag === "SELECT" || tag === "INPUT") return;
  if (event.key === "ArrowRight") stepBy(1);
  else if (event.key === "ArrowLeft") stepBy(-1);
  else if (event.key === " " && tag !== "BUTTON") toggle();
  else return;
  event.preventDefault();
}

function moveProblem(by) {
  find("viewer-problem").selectedIndex += by;
  view.problem = Number(find("viewer-problem").value);
  showProblem();
}

function startViewer() {
  const on = (id, event, act) => find(id).addEventListener(event, act);
  find("legend-scale").style.background = `linear-gradient(to right, ${SCALE.join(", ")})`;
  view.panes = [makePane("First policy"), makePane("Second policy")];
  const conditions = data.conditions.map(({ title }, i) => make("option", { value: i, textContent: title }));
  find("viewer-condition").append(...conditions);
  on("viewer-condition", "change", () => {
    view.condition = Number(find("viewer-condition").value);
    showCondition();
  });
  on("viewer-problem", "change", () => moveProblem(0));
  on("problem-back", "click", () => moveProblem(-1));
  on("problem-next", "click", () => moveProblem(1));
  on("viewer-differ", "change", () => {
    listProblems();
    showProblem();
  });
  on("step-first", "click", () => stepBy(-view.steps));
  on("step-back", "click", () => stepBy(-1));
  on("step-play", "click", toggle);
  on("step-on", "click", () => stepBy(1));
  on("step-last", "click", () => stepBy(view.steps));
  on("step", "input", () => {
    pause();
    goTo(Number(find("step").value));
  });
  on("stage", "keydown", stageKey);
  showCondition();
}

startViewer();

// --------------------------------------------------------------------------------------------- order of writing

let orderCondition = 0;

function drawOrder() {
  const { entries, order } = data.conditions[orderCondition];
  const length = Math.max(...order.map((row) => row.length));
  const positions = Array.from({ length }, (_, i) => i + 1);
  const said = (value) => (value === null ? "never written" : `on average written at ${value.toFixed(2)}`);
  const about = (i, j, value) => hoverText([entries[i].label, `position ${j + 1}`, said(value)]);
  const heatmap = {
    type: "heatmap",
    x: positions,
    y: entries.map((_, i) => i),
    z: order,
    zmin: 0,
    zmax: 1,
    colorscale: SCALE.map((colour, i) => [i / (SCALE.length - 1), colour]),
    hoverinfo: "text",
    hovertext: order.map((row, i) => row.map((value, j) => about(i, j, value))),
    colorbar: {
      orientation: "h",
      x: 0,
      xanchor: "left",
      len: narrow.matches ? 1 : 0.4,
      y: 1,
      yanchor: "bottom",
      ypad: 4,
      thickness: 10,
      outlinewidth: 0,
      tickvals: [0, 0.5, 1],
      title: { text: "0: first step, 1: last step", side: "top" },
    },
  };
  const layout = frame({
    height: 146 + 24 * entries.length,
    margin: { l: 20, r: 14, t: 76, b: 50 },
    xaxis: {
      title: { text: "position in the response", standoff: 8 },
      showgrid: false,
      zeroline: false,
      nticks: narrow.matches ? 6 : 12,
    },
    yaxis: {
      autorange: "reversed",
      tickvals: entries.map((_, i) => i),
      ticktext: entries.map((entry) => plain(shorten(entry.short, narrow.matches ? 14 : 40))),
      automargin: true,
      showgrid: false,
      zeroline: false,
    },
  });
  Plotly.react("order-plot", [heatmap], layout, CONFIG);
}

tabs(find("order-tabs"), (chosen) => {
  orderCondition = chosen;
  drawOrder();
});
keepDrawn(drawOrder);

// -------------------------------------------------------------------------------------------------- printing

// The fronts of all conditions are a picture on paper; the other plot has to be told how wide that is.
addEventListener("beforeprint", () => Plotly.relayout("order-plot", { width: 680 }));
addEventListener("afterprint", () => Plotly.relayout("order-plot", { width: null, autosize: true }));
