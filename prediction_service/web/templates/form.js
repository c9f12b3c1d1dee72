// The page at /: sends a form or a CSV file to /predict and shows the answers.
"use strict";

const TIMEOUT_MS = 30_000;
const MOST_ROWS = 100_000; // of a file
const SHOWN_ROWS = 200;
const BINS = 20;
const ROW_BYTES = 600; // more than a record takes as JSON

const settings = document.body.dataset;
const rules = JSON.parse(settings.rules);
const byId = (id) => document.getElementById(id);
let fileNumber = 0; // of the file that is being read: an older one gives up
let resultsAddress = "";
let unfinished = null; // the last file of which not every row was answered

/** What the service said instead of an answer; `problems` as in its error body. */
class Refused extends Error {
  constructor(message, status, problems = []) {
    super(message);
    this.status = status;
    this.problems = problems;
  }
}

/** An element with attributes (`text` for its text) and children. */
function make(name, attributes = {}, ...children) {
  const inSvg = ["svg", "rect", "text", "line"].includes(name);
  const element = inSvg
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const words = (name) => name.replaceAll("_", " ");
const percent = (probability) => `${(100 * probability).toFixed(1)} %`;
const signed = (number) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(2);

/** Asks /predict; asked again with the same `idempotencyKey`, it stores nothing twice. Raises Refused. */
async function ask(body, explain, idempotencyKey = "") {
  const headers = { "Content-Type": "application/json" };
  const key = byId("key")?.value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (idempotencyKey) headers["Idempotency-Key"] = idempotencyKey;
  let response, answer;
  try {
    response = await fetch(explain ? "predict?explain=true" : "predict", {
      method: "POST",
      headers,
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    answer = await response.json();
  } catch {
    throw new Refused("The service did not answer: is it running? Then try again.", 0);
  }
  if (response.ok) return answer;
  const error = answer?.error ?? {}; // what stands before the service may have an error body of its own
  throw new Refused(error.message ?? `The service answers ${response.status}: try again.`, response.status, error.problems);
}

/** A problem of a record, in words. */
function inWords(problem) {
  const nearest = problem.nearest ? `; did you mean ${problem.nearest}?` : "";
  const value = problem.value ?? "nothing";
  return `${words(problem.field)}: ${value}, expected ${problem.expected}${nearest}`;
}

/** Each problem has an id of its own, `PLACE-0` and on. */
function showRefusal(place, refused) {
  const problems = refused.problems.map((one, i) => make("li", { id: `${place.id}-${i}`, text: inWords(one) }));
  place.replaceChildren(make("p", { class: "problem", text: refused.message }), make("ul", {}, ...problems));
}

// One person

async function predictPerson(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  const entered = new FormData(form);
  const record = {};
  for (const rule of rules.filter((one) => one.used)) record[rule.name] = valueOf(rule, entered.get(rule.name));
  button.disabled = true;
  byId("reasons").replaceChildren();
  markInputs([]);
  try {
    showAnswer(record, await askWithReasons(record));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    showRefusal(byId("said"), error);
    markInputs(error.problems);
  } finally {
    button.disabled = false;
  }
}

/** Ties problems to the inputs that they are about, and leads to the first of these. */
function markInputs(problems) {
  for (const { name } of rules) {
    const input = byId(`f-${name}`);
    if (!input) continue;
    const own = problems.flatMap((one, i) => (one.field === name ? [`said-${i}`] : []));
    input.removeAttribute("aria-invalid");
    if (own.length) input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", [...own, `h-${name}`].join(" "));
  }
  document.querySelector("#person [aria-invalid]")?.focus();
}

/** An answer with its explanation, or without one where the version has none. */
async function askWithReasons(record) {
  try {
    return await ask(record, true);
  } catch (error) {
    if (error.status !== 501) throw error;
    return ask(record, false);
  }
}

function showAnswer(record, answer) {
  const part = make("div", { class: "part" });
  part.style.width = percent(answer.probability).replace(" ", "");
  const threshold = make("div", { class: "threshold" });
  threshold.style.left = `${100 * answer.threshold}%`;
  const said =
    `Probability of ${settings.positive}: ${percent(answer.probability)}; ` +
    `the line is the threshold, ${percent(answer.threshold)}. Model version ${answer.model_version}.`;
  byId("said").replaceChildren( // this is read out, and the reasons are not
    make("p", { class: "verdict", text: answer.label }),
    make("div", { class: "scale", "aria-hidden": "true" }, part, threshold),
    make("p", { text: said }),
  );
  byId("reasons").replaceChildren(
    ...(answer.explanation ? reasons(record, answer.explanation) : [
      make("p", { class: "soft", text: "This version cannot give its reasons." }),
    ]),
  );
}

/** The contributions as bars, strongest first. */
function reasons(record, explanation) {
  const shares = Object.entries(explanation.contributions).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const longest = Math.max(...shares.map(([, share]) => Math.abs(share)), 1e-9);
  const rows = shares.map(([name, share]) => {
    const bar = make("div", { class: share > 0 ? "up" : "down" });
    const length = (50 * Math.abs(share)) / longest;
    bar.style.width = `${length}%`;
    bar.style.left = `${share > 0 ? 50 : 50 - length}%`;
    return make("tr", {},
      make("th", { scope: "row", text: words(name) }),
      make("td", { text: record[name] ?? "not given" }),
      make("td", { class: "bar", "aria-hidden": "true" }, make("div", { class: "track" }, bar)),
      make("td", { class: "number", text: signed(share) }),
    );
  });
  const caption =
    `What each answer added to the score, in log-odds: to the right towards ${settings.positive}. ` +
    `They begin at ${signed(explanation.base_value)} and sum to ${signed(explanation.margin)}, before calibration.`;
  const head = make("tr", {},
    make("th", { scope: "col", text: "feature" }),
    make("th", { scope: "col", text: "answer" }),
    make("th", { scope: "col", "aria-hidden": "true" }),
    make("th", { scope: "col", class: "number", text: "log-odds" }),
  );
  return [
    make("ul", {}, ...explanation.reasons.map((text) => make("li", { text }))),
    make("div", { class: "table" },
      make("table", { class: "bars" }, make("caption", { text: caption }),
        make("thead", {}, head), make("tbody", {}, ...rows))),
  ];
}

// A file

/** The cells of a CSV text, by row (RFC 4180); rows without any text are left out. */
function parseCsv(text, separator) {
  const rows = [];
  let row = [], cell = "", isQuoted = false;
  const endCell = () => { row.push(cell); cell = ""; };
  const endRow = () => {
    endCell();
    if (row.some((one) => one.trim())) rows.push(row);
    row = [];
  };
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (isQuoted) {
      if (character !== '"') cell += character;
      else if (text[i + 1] === '"') { cell += '"'; i++; }
      else isQuoted = false;
    } else if (character === '"' && !cell.trim()) { isQuoted = true; cell = ""; }
    else if (character === separator) endCell();
    else if (character === "\n") endRow();
    else if (character !== "\r") cell += character;
  }
  if (isQuoted) throw new Refused("A quotation mark opens a cell and none closes it: add it.", 0);
  if (cell || row.length) endRow();
  return rows;
}

/** A cell, or what was entered, as the contract wants it; the service judges what is no number. */
function valueOf(rule, text) {
  const said = text.trim();
  if (said === "" || said === "?") return null;
  return rule.number && !Number.isNaN(Number(said)) ? Number(said) : said;
}

/** The rules of a file's columns, in its order; undefined for one that is not used. Raises Refused. */
function columnsOf(header) {
  const plain = (name) => name.trim().toLowerCase().replace(/[^a-z0-9]+/g, "_");
  const names = header.map(plain);
  const missing = rules.filter((one) => one.used && !one.optional && !names.includes(plain(one.name)));
  if (missing.length) {
    const list = missing.map((one) => one.name).join(", ");
    throw new Refused(`The first line of the file has no column ${list}: it must name every column.`, 0);
  }
  const twice = rules.find((one) => one.used && names.filter((name) => name === plain(one.name)).length > 1);
  if (twice) throw new Refused(`The first line of the file names ${twice.name} twice: rename one.`, 0);
  return names.map((name) => rules.find((one) => one.used && plain(one.name) === name));
}

/** Rows of a file: their cells, the record they make, and an answer or a problem once asked. */
function readRows(text) {
  const firstLine = text.slice(0, Math.max(0, text.indexOf("\n")) || text.length);
  const separator = [",", ";", "\t"].sort((a, b) => firstLine.split(b).length - firstLine.split(a).length)[0];
  const [header, ...lines] = parseCsv(text.replace(/^\uFEFF/, ""), separator);
  if (!header) throw new Refused("The file is empty: its first line names the columns, then a row each.", 0);
  const columns = columnsOf(header);
  if (!lines.length) throw new Refused("The file has no row below its first line.", 0);
  if (lines.length > MOST_ROWS) {
    throw new Refused(`The file has ${lines.length} rows, expected at most ${MOST_ROWS}: split it, or ask from a program.`, 0);
  }
  const rows = lines.map((cells) => {
    if (cells.length !== header.length) {
      return { cells, problem: `${cells.length} cells, expected ${header.length} as in the first line` };
    }
    const record = {};
    columns.forEach((rule, i) => { if (rule) record[rule.name] = valueOf(rule, cells[i]); });
    return { cells, record };
  });
  return { header, rows };
}

/** Asks for rows that fit into one request; those at fault are marked, the others asked again. */
async function askRows(rows, idempotencyKey) {
  let open = rows.filter((row) => !row.answer && !row.problem);
  while (open.length) {
    try {
      const answers = await ask(open.map((row) => row.record), false, idempotencyKey);
      open.forEach((row, i) => { row.answer = answers[i]; });
      return;
    } catch (error) {
      const found = (error.problems ?? []).filter((one) => one.record !== undefined);
      if (error.status !== 422 || !found.length) throw error;
      for (const one of found) {
        const row = open[one.record];
        row.problem = row.problem ? `${row.problem}; ${inWords(one)}` : inWords(one);
      }
      open = open.filter((row) => !row.problem);
    }
  }
}

async function predictFile(chosen) {
  const number = ++fileNumber;
  byId("batch").replaceChildren();
  try {
    const { header, rows } = readRows(await chosen.text());
    if (number === fileNumber) await predictRows({ name: chosen.name, key: keyOf(chosen), header, rows });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (number === fileNumber) showRefusal(byId("progress"), error);
  }
}

/** What a file's rows are asked under: the same for one that is chosen again since it was not finished. */
function keyOf({ name, size, lastModified }) {
  if (unfinished?.name !== name || unfinished.size !== size || unfinished.lastModified !== lastModified) {
    const key = [...crypto.getRandomValues(new Uint32Array(4))].map((one) => one.toString(16)).join("-");
    unfinished = { name, size, lastModified, key };
  }
  return unfinished.key;
}

/** Asks for what has no answer yet, part by part; the first part that fails is the last one. */
async function predictRows(file) {
  const number = ++fileNumber;
  const rows = file.rows;
  const size = Math.min(Number(settings.maxRecords), Math.max(1, Math.floor(Number(settings.maxBytes) / ROW_BYTES)));
  let refused = null;
  byId("batch").replaceChildren();
  try {
    for (let first = 0; first < rows.length; first += size) {
      await askRows(rows.slice(first, first + size), `${file.key}-${first}`);
      if (number !== fileNumber) return;
      byId("progress").textContent = `${Math.min(first + size, rows.length)} of ${rows.length} rows`;
    }
    unfinished = null;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (number !== fileNumber) return;
    refused = error;
  }
  showBatch(file, refused);
}

/** What came of a file; `refused` is why its last rows have no answer, if they have none. */
function showBatch(file, refused) {
  const { name, header } = file;
  const rows = file.rows.map((row) => ({ ...row, problem: row.problem ?? (row.answer ? undefined : refused.message) }));
  const answered = rows.filter((row) => row.answer);
  const positive = answered.filter((row) => row.answer.income_class === 1).length;
  const bad = rows.length - answered.length;
  const said =
    `${name}: ${answered.length} rows predicted, ${positive} of them ${settings.positive}; ` +
    (bad ? `${bad} with a problem, marked below.` : "none with a problem.");
  if (refused) showRefusal(byId("progress"), refused);
  else byId("progress").replaceChildren();
  byId("progress").append(make("p", { text: said }));
  const csv = [[...header, "prediction_id", "label", "probability", "model_version", "problem"],
    ...rows.map(({ cells, answer, problem }) => [...header.map((_, i) => cells[i] ?? ""),
      answer?.prediction_id, answer?.label, answer?.probability, answer?.model_version, problem])];
  URL.revokeObjectURL(resultsAddress);
  resultsAddress = URL.createObjectURL(new Blob([csv.map(csvLine).join("")], { type: "text/csv" }));
  const download = `${name.replace(/\.csv$/i, "")}-predicted.csv`;
  const again = make("button", { type: "button", text: "Ask for the rest" });
  again.addEventListener("click", () => predictRows(file));
  byId("batch").replaceChildren(
    ...(refused ? [make("p", {}, again)] : []),
    ...(answered.length ? [histogram(answered.map((row) => row.answer.probability), answered[0].answer.threshold)] : []),
    make("p", {}, make("a", { href: resultsAddress, download, text: `Download ${download}` })),
    batchTable(rows),
  );
}

const csvLine = (cells) =>
  `${cells.map((one) => (/[",;\r\n]/.test(one ?? "") ? `"${String(one).replaceAll('"', '""')}"` : one ?? "")).join(",")}\r\n`;

/** The rows with a problem first. */
function batchTable(rows) {
  const numbered = rows.map((row, i) => ({ ...row, line: i + 1 })).sort((a, b) => Boolean(b.problem) - Boolean(a.problem));
  const shown = numbered.slice(0, SHOWN_ROWS).map(({ line, answer, problem }) =>
    make("tr", {},
      make("th", { scope: "row", text: line }),
      make("td", { text: answer?.label ?? "not predicted" }),
      make("td", { class: "number", text: answer ? percent(answer.probability) : "" }),
      make("td", { class: "problem", text: problem ?? "" }),
    ));
  const head = ["row", words(settings.target), "probability", "problem"].map((text) => make("th", { scope: "col", text }));
  const count = rows.length > SHOWN_ROWS ? `${SHOWN_ROWS} of ${rows.length} rows are shown; the download has all.` : "All rows.";
  const caption = `${count} Those with a problem come first.`;
  const scrolled = { class: "tall", role: "region", tabindex: 0, "aria-label": "Rows of the file" };
  return make("div", scrolled,
    make("table", {}, make("caption", { text: caption }),
      make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...shown)));
}

/** How many rows have which probability; the line is the threshold. */
function histogram(probabilities, threshold) {
  const counts = new Array(BINS).fill(0);
  for (const one of probabilities) counts[Math.min(BINS - 1, Math.floor(one * BINS))]++;
  const most = Math.max(...counts);
  const [left, top, width, height] = [10, 20, 480, 120];
  const bars = counts.map((count, i) => {
    const length = (height * count) / most;
    return make("rect", { x: left + (i * width) / BINS + 1, width: width / BINS - 2, y: top + height - length, height: length });
  });
  const at = left + threshold * width;
  const label = `How many rows have which probability of ${settings.positive}: ` +
    counts.map((count, i) => `${count} from ${Math.round((100 * i) / BINS)} %`).join(", ");
  return make("svg", { class: "histogram", viewBox: "0 0 500 165", role: "img", "aria-label": label },
    make("text", { x: left, y: 12, text: `rows by probability of ${settings.positive}; at most ${most}` }),
    ...bars,
    make("line", { x1: left, x2: left + width, y1: top + height, y2: top + height }),
    make("line", { x1: at, x2: at, y1: top, y2: top + height, "stroke-dasharray": "4 3" }),
    make("text", { x: left, y: 158, text: "0 %" }),
    make("text", { x: at, y: 158, "text-anchor": "middle", text: "threshold" }),
    make("text", { x: left + width, y: 158, "text-anchor": "end", text: "100 %" }),
  );
}

byId("person").addEventListener("submit", predictPerson);
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) predictFile(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
const drop = byId("drop");
for (const name of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) predictFile(event.dataTransfer.files[0]);
  });
}
