// The page at /: sends a form or a CSV file to /predict and shows the predictions.
"use strict";

const TIMEOUT_MS = 30_000;
const MAX_FILE_ROWS = 100_000;
const MAX_SHOWN_ROWS = 200;
const MAX_RECORD_BYTES = 600; // of a record as JSON
const BINS = 20;

const settings = document.body.dataset;
const columns = JSON.parse(settings.columns); // the model's columns, as in form.py
const byId = (id) => document.getElementById(id);
let currentRun = 0; // a newer file stops the run of an older one
let downloadUrl = "";
let unfinished = null; // the last file with rows that have no prediction yet

/** The service rejected a request or did not respond. `problems` as in its error body. */
class RequestError extends Error {
  constructor(message, status = 0, problems = []) {
    super(message);
    this.status = status;
    this.problems = problems;
  }
}

/** Return an element with attributes (`text` is its text) and children. */
function make(name, attributes = {}, ...children) {
  const isSvg = ["svg", "rect", "text", "line"].includes(name);
  const element = isSvg
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
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const signed = (number) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(2);

/** Return the response of /predict. A retry with the same key stores nothing twice. Throws RequestError. */
async function predict(body, explain, idempotencyKey = "") {
  const headers = { "Content-Type": "application/json" };
  const apiKey = byId("key")?.value.trim();
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  if (idempotencyKey) headers["Idempotency-Key"] = idempotencyKey;
  let response, content;
  try {
    response = await fetch(explain ? "predict?explain=true" : "predict", {
      method: "POST",
      headers,
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    content = await response.json();
  } catch {
    throw new RequestError("The service did not respond. Check that it is running, then retry.");
  }
  if (response.ok) return content;
  const error = content?.error ?? {}; // a reverse proxy may have an error body of its own
  const message = error.message ?? `The service responded with status ${response.status}. Retry later.`;
  throw new RequestError(message, response.status, error.problems);
}

/** Return a problem of a record in words. */
function describe(problem) {
  const nearest = problem.nearest ? `; did you mean ${problem.nearest}?` : "";
  return `${words(problem.field)}: got ${problem.value ?? "nothing"}, expected ${problem.expected}${nearest}`;
}

/** Show an error in an element. Each problem has an id, `ELEMENT-0` and up, for its input. */
function showError(element, error) {
  const problems = error.problems.map((one, i) => make("li", { id: `${element.id}-${i}`, text: describe(one) }));
  element.replaceChildren(make("p", { class: "problem", text: error.message }), make("ul", {}, ...problems));
}

// One person

async function predictPerson(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  const entered = new FormData(form);
  const record = {};
  for (const column of columns) record[column.name] = parseValue(column, entered.get(column.name));
  button.disabled = true;
  byId("explanation").replaceChildren();
  markInputs([]);
  try {
    showPrediction(record, await predictAndExplain(record));
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    showError(byId("outcome"), error);
    markInputs(error.problems);
  } finally {
    button.disabled = false;
  }
}

/** Connect problems to their inputs and focus the first of these. */
function markInputs(problems) {
  for (const { name } of columns) {
    const input = byId(`f-${name}`);
    const own = problems.flatMap((one, i) => (one.field === name ? [`outcome-${i}`] : []));
    input.removeAttribute("aria-invalid");
    if (own.length) input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", [...own, `h-${name}`].join(" "));
  }
  document.querySelector("#person [aria-invalid]")?.focus();
}

/** Return a prediction with its explanation, or without one if the model cannot explain (501). */
async function predictAndExplain(record) {
  try {
    return await predict(record, true);
  } catch (error) {
    if (error.status !== 501) throw error;
    return predict(record, false);
  }
}

function showPrediction(record, prediction) {
  const bar = make("div", { class: "part" });
  bar.style.width = `${100 * prediction.probability}%`;
  const threshold = make("div", { class: "threshold" });
  threshold.style.left = `${100 * prediction.threshold}%`;
  const sentence =
    `Probability of ${settings.positive}: ${percent(prediction.probability)}. ` +
    `The line marks the threshold, ${percent(prediction.threshold)}. Model version ${prediction.model_version}.`;
  byId("outcome").replaceChildren( // screen readers announce this element, without the explanation
    make("p", { class: "verdict", text: prediction.label }),
    make("div", { class: "scale", "aria-hidden": "true" }, bar, threshold),
    make("p", { text: sentence }),
  );
  byId("explanation").replaceChildren(
    ...(prediction.explanation ? explain(record, prediction.explanation) : [
      make("p", { class: "soft", text: "This model version cannot explain its predictions." }),
    ]),
  );
}

/** Return the reasons, and the contributions as bars, largest first. */
function explain(record, explanation) {
  const contributions = Object.entries(explanation.contributions).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const largest = Math.max(...contributions.map(([, value]) => Math.abs(value)), 1e-9);
  const rows = contributions.map(([name, value]) => {
    const bar = make("div", { class: value > 0 ? "up" : "down" });
    const length = (50 * Math.abs(value)) / largest;
    bar.style.width = `${length}%`;
    bar.style.left = `${value > 0 ? 50 : 50 - length}%`;
    return make("tr", {},
      make("th", { scope: "row", text: words(name) }),
      make("td", { text: record[name] ?? "not given" }),
      make("td", { class: "bar", "aria-hidden": "true" }, make("div", { class: "track" }, bar)),
      make("td", { class: "number", text: signed(value) }),
    );
  });
  const caption =
    `Contribution of each feature to the score, in log-odds. Bars to the right favour ${settings.positive}. ` +
    `The base value is ${signed(explanation.base_value)}, the score before calibration ${signed(explanation.margin)}.`;
  const head = make("tr", {},
    make("th", { scope: "col", text: "feature" }),
    make("th", { scope: "col", text: "value" }),
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

/** Return the cells of a CSV text by row (RFC 4180), without blank rows. */
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
  if (isQuoted) throw new RequestError("A quoted cell has no closing quotation mark. Add it.");
  if (cell || row.length) endRow();
  return rows;
}

/** Return a value for the contract. The service validates it. */
function parseValue(column, text) {
  const value = text.trim();
  if (value === "" || value === "?") return null;
  return column.is_number && !Number.isNaN(Number(value)) ? Number(value) : value;
}

/** Return the model's column of each cell of the header, or undefined. Throws RequestError. */
function matchColumns(header) {
  const plain = (name) => name.trim().toLowerCase().replace(/[^a-z0-9]+/g, "_");
  const names = header.map(plain);
  const missing = columns.filter((one) => !one.is_optional && !names.includes(plain(one.name)));
  if (missing.length) {
    const list = missing.map((one) => one.name).join(", ");
    throw new RequestError(`The first line of the file has no column ${list}. It must name every column.`);
  }
  const duplicate = columns.find((one) => names.filter((name) => name === plain(one.name)).length > 1);
  if (duplicate) throw new RequestError(`The first line of the file has the column ${duplicate.name} twice. Rename one.`);
  return names.map((name) => columns.find((one) => plain(one.name) === name));
}

/** Return the header of a CSV text, and its rows: cells, and a record or a problem. */
function readRows(text) {
  const firstLine = text.slice(0, Math.max(0, text.indexOf("\n")) || text.length);
  const separator = [",", ";", "\t"].sort((a, b) => firstLine.split(b).length - firstLine.split(a).length)[0];
  const [header, ...lines] = parseCsv(text.replace(/^\uFEFF/, ""), separator);
  if (!header) throw new RequestError("The file is empty. The first line must name the columns; each other line is a row.");
  const matched = matchColumns(header);
  if (!lines.length) throw new RequestError("The file has no row below its first line.");
  if (lines.length > MAX_FILE_ROWS) {
    throw new RequestError(`The file has ${lines.length} rows, expected at most ${MAX_FILE_ROWS}. Split it, or use a program.`);
  }
  const rows = lines.map((cells) => {
    if (cells.length !== header.length) {
      return { cells, problem: `${cells.length} cells, expected ${header.length} as in the first line` };
    }
    const record = {};
    matched.forEach((column, i) => { if (column) record[column.name] = parseValue(column, cells[i]); });
    return { cells, record };
  });
  return { header, rows };
}

/** Set the prediction of rows that fit into one request. Mark invalid rows and send the others again. */
async function predictBatch(batch, idempotencyKey) {
  let open = batch.filter((row) => !row.prediction && !row.problem);
  while (open.length) {
    try {
      const predictions = await predict(open.map((row) => row.record), false, idempotencyKey);
      open.forEach((row, i) => { row.prediction = predictions[i]; });
      return;
    } catch (error) {
      const found = (error.problems ?? []).filter((one) => one.record !== undefined);
      if (error.status !== 422 || !found.length) throw error;
      for (const one of found) {
        const row = open[one.record];
        row.problem = row.problem ? `${row.problem}; ${describe(one)}` : describe(one);
      }
      open = open.filter((row) => !row.problem);
    }
  }
}

async function predictFile(chosen) {
  const run = ++currentRun;
  byId("results").replaceChildren();
  try {
    const { header, rows } = readRows(await chosen.text());
    if (run === currentRun) await predictRows({ name: chosen.name, key: idempotencyKeyOf(chosen), header, rows });
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (run === currentRun) showError(byId("progress"), error);
  }
}

/** Return a file's idempotency key. An unfinished file that is chosen again keeps its key. */
function idempotencyKeyOf({ name, size, lastModified }) {
  if (unfinished?.name !== name || unfinished.size !== size || unfinished.lastModified !== lastModified) {
    const key = [...crypto.getRandomValues(new Uint32Array(4))].map((one) => one.toString(16)).join("-");
    unfinished = { name, size, lastModified, key };
  }
  return unfinished.key;
}

/** Predict the open rows of a file, batch by batch, until one fails. */
async function predictRows(file) {
  const run = ++currentRun;
  const rows = file.rows;
  const size = Math.min(Number(settings.maxRecords), Math.max(1, Math.floor(Number(settings.maxBytes) / MAX_RECORD_BYTES)));
  let failure = null;
  byId("results").replaceChildren();
  try {
    for (let first = 0; first < rows.length; first += size) {
      await predictBatch(rows.slice(first, first + size), `${file.key}-${first}`);
      if (run !== currentRun) return;
      byId("progress").textContent = `${Math.min(first + size, rows.length)} of ${rows.length} rows`;
    }
    unfinished = null;
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (run !== currentRun) return;
    failure = error;
  }
  showResults(file, failure);
}

/** Show the predictions of a file. `failure` is the reason for open rows, or null. */
function showResults(file, failure) {
  const { name, header } = file;
  const rows = file.rows.map((row) => ({ ...row, problem: row.problem ?? (row.prediction ? undefined : failure.message) }));
  const predictions = rows.flatMap((row) => row.prediction ?? []);
  const positive = predictions.filter((one) => one.income_class === 1).length;
  const bad = rows.length - predictions.length;
  const summary =
    `${name}: ${predictions.length} rows predicted, ${positive} of them ${settings.positive}. ` +
    (bad ? `${bad} rows with a problem, listed first.` : "No problems.");
  if (failure) showError(byId("progress"), failure);
  else byId("progress").replaceChildren();
  byId("progress").append(make("p", { text: summary }));
  const csv = [[...header, "prediction_id", "label", "probability", "model_version", "problem"],
    ...rows.map(({ cells, prediction, problem }) => [...header.map((_, i) => cells[i] ?? ""),
      prediction?.prediction_id, prediction?.label, prediction?.probability, prediction?.model_version, problem])];
  URL.revokeObjectURL(downloadUrl);
  downloadUrl = URL.createObjectURL(new Blob([csv.map(csvLine).join("")], { type: "text/csv" }));
  const download = `${name.replace(/\.csv$/i, "")}-predicted.csv`;
  const retry = make("button", { type: "button", text: "Predict the other rows" });
  retry.addEventListener("click", () => predictRows(file));
  byId("results").replaceChildren(
    ...(failure ? [make("p", {}, retry)] : []),
    ...(predictions.length ? [histogram(predictions.map((one) => one.probability), predictions[0].threshold)] : []),
    make("p", {}, make("a", { href: downloadUrl, download, text: `Download ${download}` })),
    resultsTable(rows),
  );
}

const csvLine = (cells) =>
  `${cells.map((one) => (/[",;\r\n]/.test(one ?? "") ? `"${String(one).replaceAll('"', '""')}"` : one ?? "")).join(",")}\r\n`;

/** Return a table of rows; those with a problem come first. */
function resultsTable(rows) {
  const numbered = rows.map((row, i) => ({ ...row, line: i + 1 })).sort((a, b) => Boolean(b.problem) - Boolean(a.problem));
  const shown = numbered.slice(0, MAX_SHOWN_ROWS).map(({ line, prediction, problem }) =>
    make("tr", {},
      make("th", { scope: "row", text: line }),
      make("td", { text: prediction?.label ?? "not predicted" }),
      make("td", { class: "number", text: prediction ? percent(prediction.probability) : "" }),
      make("td", { class: "problem", text: problem ?? "" }),
    ));
  const head = ["row", words(settings.target), "probability", "problem"].map((text) => make("th", { scope: "col", text }));
  const count = rows.length > MAX_SHOWN_ROWS ? `${MAX_SHOWN_ROWS} of ${rows.length} rows. The download has all rows.` : "All rows.";
  const caption = `${count} Rows with a problem come first.`;
  const scrolled = { class: "tall", role: "region", tabindex: 0, "aria-label": "Rows of the file" };
  return make("div", scrolled,
    make("table", {}, make("caption", { text: caption }),
      make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...shown)));
}

/** Return a histogram of probabilities, with the threshold as a line. */
function histogram(probabilities, threshold) {
  const counts = new Array(BINS).fill(0);
  for (const one of probabilities) counts[Math.min(BINS - 1, Math.floor(one * BINS))]++;
  const maximum = Math.max(...counts);
  const [left, top, width, height] = [10, 20, 480, 120];
  const bars = counts.map((count, i) => {
    const length = (height * count) / maximum;
    return make("rect", { x: left + (i * width) / BINS + 1, width: width / BINS - 2, y: top + height - length, height: length });
  });
  const x = left + threshold * width;
  const label = `Number of rows by probability of ${settings.positive}: ` +
    counts.map((count, i) => `${count} from ${Math.round((100 * i) / BINS)} %`).join(", ");
  return make("svg", { class: "histogram", viewBox: "0 0 500 165", role: "img", "aria-label": label },
    make("text", { x: left, y: 12, text: `rows by probability of ${settings.positive}; highest bar: ${maximum}` }),
    ...bars,
    make("line", { x1: left, x2: left + width, y1: top + height, y2: top + height }),
    make("line", { x1: x, x2: x, y1: top, y2: top + height, "stroke-dasharray": "4 3" }),
    make("text", { x: left, y: 158, text: "0 %" }),
    make("text", { x, y: 158, "text-anchor": "middle", text: "threshold" }),
    make("text", { x: left + width, y: 158, "text-anchor": "end", text: "100 %" }),
  );
}

byId("person").addEventListener("submit", predictPerson);
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) predictFile(event.target.files[0]);
  event.target.value = ""; // lets the user choose the same file again
});
