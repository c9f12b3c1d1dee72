// The page at /: sends a form or a CSV file to /predict and shows the predictions.
"use strict";

const TIMEOUT_MS = 30_000;
const MAX_FILE_ROWS = 100_000;
const MAX_SHOWN_ROWS = 200;
const MAX_SHOWN_NOTES = 20;
const SEPARATORS = { ",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars" };
const INTEGER = /^[-+]?[0-9]{1,18}(\.0*)?$/; // as in config/feature.py
const NUMBER = /^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?$/;
const BINS = 20;

const settings = document.body.dataset;
const columns = JSON.parse(settings.columns); // the model's columns, as in form.py
const missingMarks = JSON.parse(settings.missingMarks);
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

/** Return the JSON value of a text. Text that does not fit the column stays as it is: the service names it. */
function parseValue(column, text) {
  const whole = INTEGER.test(text) ? text.split(".")[0] : null;
  if (column.kind === "integer" && whole !== null) return Number.isSafeInteger(Number(whole)) ? Number(whole) : text;
  if (column.kind === "number" && NUMBER.test(text)) {
    const number = Number(text); // JSON has neither infinity nor the sign of -0
    return Number.isFinite(number) && !Object.is(number, -0) ? number : text;
  }
  if (column.kind === "boolean") {
    const spelling = typeof column.values[0] === "string" ? text : whole ?? text.toLowerCase();
    const place = column.categories.indexOf(spelling);
    return place < 0 ? text : column.values[place];
  }
  return text;
}

// One record

async function predictRecord(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  const entered = new FormData(form);
  const record = {};
  for (const column of columns) {
    const text = entered.get(column.name).trim();
    record[column.name] = text === "" ? null : parseValue(column, text);
  }
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
  document.querySelector("#record [aria-invalid]")?.focus();
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
  const notes = (prediction.notes ?? []).map((text) => make("p", { class: "note", text }));
  byId("outcome").replaceChildren( // screen readers announce this element, without the explanation
    make("p", { class: "verdict", text: prediction.label }),
    make("p", { text: prediction.message }),
    make("div", { class: "scale", "aria-hidden": "true" }, bar, threshold),
    make("p", { text: sentence }),
    ...notes,
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

/** Return the text of a file's bytes. A byte-order mark names UTF-16. Throws RequestError. */
function decodeText(bytes) {
  const [first, second] = new Uint8Array(bytes.slice(0, 2));
  const encoding = first === 0xff && second === 0xfe ? "utf-16le" : first === 0xfe && second === 0xff ? "utf-16be" : "utf-8";
  let text = "\0";
  try {
    text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    // the message below
  }
  if (text.includes("\0")) throw new RequestError("The file is not text in UTF-8. Save the table as CSV in UTF-8.");
  return { text, encoding: encoding.slice(0, 6).toUpperCase() };
}

/** Yield the cells of each row of a CSV text (RFC 4180), with the number of its first line. */
function* parseCsv(text, separator, firstLine = 1) {
  let cells = [], cell = "", isQuoted = false, line = firstLine, start = firstLine;
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    const endsLine = character === "\n" || (character === "\r" && text[i + 1] !== "\n");
    if (endsLine) line++;
    if (isQuoted) {
      if (character !== '"') cell += character;
      else if (text[i + 1] === '"') { cell += '"'; i++; }
      else isQuoted = false;
    } else if (character === '"' && !cell.trim()) { isQuoted = true; cell = ""; }
    else if (character === separator) { cells.push(cell); cell = ""; }
    else if (endsLine) {
      yield { line: start, cells: [...cells, cell] };
      cells = []; cell = ""; start = line;
    } else if (character !== "\r") cell += character;
  }
  if (isQuoted) throw new RequestError(`A quoted cell of line ${start} has no closing quotation mark. Add it.`);
  if (cell || cells.length) yield { line: start, cells: [...cells, cell] };
}

const isBlank = ({ cells }) => !cells.some((one) => one.trim());

/** Return the first row with a value, or undefined. */
function firstRow(text, separator) {
  for (const row of parseCsv(text, separator)) if (!isBlank(row)) return row;
}

/** Return the model's column with this header, or undefined. */
function columnOf(header) {
  const plain = header.trim().toLowerCase().replace(/[\s.-]+/g, "_"); // as column_name in config/contract.py
  return columns.find((one) => one.name === header.trim()) ?? columns.find((one) => one.headers.includes(plain));
}

/** Return the separator that gives the first row most columns of the model, else most cells. */
function findSeparator(text) {
  const score = (separator) => {
    const cells = firstRow(text, separator)?.cells ?? [];
    return cells.filter(columnOf).length * 1e6 + cells.length;
  };
  const scores = Object.keys(SEPARATORS).map((one) => [score(one), one]);
  return scores.reduce((best, one) => (one[0] > best[0] ? one : best))[1];
}

/** Return a file's value for the contract, null for a missing one. A listed category is never missing. */
function parseCell(column, cell) {
  const text = cell.trim();
  if (missingMarks.includes(text) && !column.categories.includes(text)) return null;
  return parseValue(column, text);
}

/** Return header, matched columns and rows of a CSV text. A row has its line, cells, and a record or a problem. */
function readTable(text) {
  const excel = /^"?sep=(.)"?[\s,;|]*?(\r\n|\r|\n|$)/i.exec(text); // Excel's first line
  const body = excel ? text.slice(excel[0].length) : text;
  const separator = excel ? excel[1] : findSeparator(body);
  const all = [...parseCsv(body, separator, excel ? 2 : 1)];
  const place = all.findIndex((row) => !isBlank(row));
  if (place < 0) throw new RequestError("The file is empty. The first line must name the columns; each other line is a row.");
  const { line: headerLine, cells: header } = all[place];
  const matched = header.map(columnOf);
  const lines = all.slice(place + 1);
  while (lines.length && isBlank(lines.at(-1))) lines.pop();
  const rows = lines.map((row) => {
    if (isBlank(row)) return { ...row, isBlank: true };
    if (row.cells.length !== header.length) {
      return { ...row, problem: `${row.cells.length} cells, expected ${header.length} as in line ${headerLine}` };
    }
    const record = {};
    matched.forEach((column, i) => { if (column) record[column.name] = parseCell(column, row.cells[i]); });
    return { ...row, record };
  });
  const missing = columns.filter((one) => !matched.includes(one));
  return { header, headerLine, matched, missing, rows, separator };
}

/** Show which columns of a file were read, which used ones it lacks, and which were left out. */
function showColumns({ header, matched, missing, separator, encoding }) {
  const read = header.flatMap((name, i) => {
    const column = matched[i]?.name;
    return column ? [column === name.trim() ? column : `${column} (${name.trim()})`] : [];
  });
  const leftOut = header.flatMap((name, i) => (matched[i] ? [] : [name.trim() || `column ${i + 1}, which has no name`]));
  const format = `${encoding}, separated by ${SEPARATORS[separator] ?? separator}`;
  const facts = [["read", read], ["not found", missing.map((one) => one.name)], ["left out", leftOut], ["format", [format]]];
  byId("columns").replaceChildren(make("dl", {}, ...facts.filter(([, names]) => names.length).flatMap(([term, names]) => {
    const look = term === "not found" ? { class: "problem" } : {};
    return [make("dt", { ...look, text: term }), make("dd", { ...look, text: names.join(", ") })];
  })));
}

/** Throw RequestError for a table without a required column, with a column twice, or without valid size. */
function checkTable({ headerLine, matched, missing, rows }) {
  const n = rows.filter((row) => !row.isBlank).length;
  const required = missing.filter((one) => !one.is_optional);
  if (required.length) {
    throw new RequestError(`Line ${headerLine} has no column ${listNames(required)}. It must name every column. Rename or add them.`);
  }
  const twice = columns.find((one) => matched.filter((column) => column === one).length > 1);
  if (twice) throw new RequestError(`Line ${headerLine} has the column ${twice.name} twice. Rename one.`);
  if (!n) throw new RequestError(`The file has no row below line ${headerLine}.`);
  if (n > MAX_FILE_ROWS) {
    throw new RequestError(`The file has ${n} rows, expected at most ${MAX_FILE_ROWS}. Split it, or use a program.`);
  }
}

const listNames = (list) => list.map((one) => one.name).join(", ");

/** Set the prediction of rows that fit into one request. Mark invalid rows and send the others again. */
async function predictBatch(batch, idempotencyKey) {
  let open = batch.filter((row) => row.record && !row.prediction && !row.problem);
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
  for (const id of ["columns", "progress", "results"]) byId(id).replaceChildren();
  try {
    const { text, encoding } = decodeText(await chosen.arrayBuffer());
    const table = { ...readTable(text), encoding };
    if (run !== currentRun) return;
    if (!table.matched.some(Boolean)) { // the first line may hold values, which are not shown
      throw new RequestError(`Line ${table.headerLine} names no column of the model. Add a first line with these names: ${listNames(columns)}.`);
    }
    showColumns(table);
    checkTable(table);
    const file = { ...table, name: chosen.name, key: idempotencyKeyOf(chosen) };
    if (table.missing.length) confirmMissing(file);
    else await predictRows(file);
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (run === currentRun) showError(byId("progress"), error);
  }
}

/** Ask before rows are predicted without columns that the model uses. */
function confirmMissing(file) {
  const button = make("button", { type: "button", text: "Predict without them" });
  button.addEventListener("click", () => predictRows(file));
  const names = listNames(file.missing);
  const text = `The file has no column ${names}. The model would read them as not given in every row, which changes the predictions.`;
  byId("progress").replaceChildren(
    make("p", { class: "problem", text }),
    make("p", { text: `If they have another name, rename them in line ${file.headerLine} and choose the file again.` }),
    make("p", {}, button),
  );
}

/** Return the number of records that fit into one request. */
function batchSize(rows) {
  const encoder = new TextEncoder();
  const bytes = rows.map((row) => encoder.encode(JSON.stringify(row.record ?? 0)).length);
  const largest = bytes.reduce((a, b) => Math.max(a, b), 1) + 1; // a comma
  return Math.min(Number(settings.maxRecords), Math.max(1, Math.floor((Number(settings.maxBytes) - 1) / largest)));
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
  const size = batchSize(rows);
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
  const lines = file.rows.map((row) => ({ ...row, problem: row.problem ?? (row.record && !row.prediction ? failure.message : undefined) }));
  const rows = lines.filter((row) => !row.isBlank);
  const predictions = rows.flatMap((row) => row.prediction ?? []);
  if (failure) showError(byId("progress"), failure);
  else byId("progress").replaceChildren();
  byId("progress").append(...summarize(file, rows, predictions));
  URL.revokeObjectURL(downloadUrl);
  downloadUrl = URL.createObjectURL(new Blob([predictedCsv(file.header, lines)], { type: "text/csv" }));
  const download = `${file.name.replace(/\.csv$/i, "")}-predicted.csv`;
  const retry = make("button", { type: "button", text: "Predict the other rows" });
  retry.addEventListener("click", () => predictRows(file));
  byId("results").replaceChildren(
    ...(failure ? [make("p", {}, retry)] : []),
    ...(predictions.length ? [histogram(predictions.map((one) => one.probability), predictions[0].threshold)] : []),
    make("p", {}, make("a", { href: downloadUrl, download, text: `Download ${download}` })),
    resultsTable(rows),
  );
}

/** Return paragraphs with the counts of a file: predictions, problems, notes, and columns that it lacks. */
function summarize({ name, missing, rows: lines }, rows, predictions) {
  const positive = predictions.filter((one) => one.income_class === 1).length;
  const bad = rows.length - predictions.length;
  const blank = lines.length - rows.length;
  const noted = predictions.filter((one) => one.notes);
  const counts = new Map();
  for (const text of noted.flatMap((one) => one.notes)) counts.set(text, (counts.get(text) ?? 0) + 1);
  const commonest = [...counts].sort((a, b) => b[1] - a[1]).slice(0, MAX_SHOWN_NOTES);
  const summary =
    `${name}: ${predictions.length} rows predicted, ${positive} of them ${settings.positive}. ` +
    (bad ? `${bad} rows with a problem, listed first. ` : missing.length || noted.length ? "" : "No problems. ") +
    (blank ? `Blank lines: ${blank}.` : "");
  return [
    make("p", { text: summary.trim() }),
    ...(missing.length ? [make("p", { class: "problem", text: `All rows were predicted without ${listNames(missing)}.` })] : []),
    ...(noted.length ? [
      make("p", { class: "note", text: `${noted.length} rows have a value that the model reads as missing:` }),
      make("ul", { class: "note" }, ...commonest.map(([text, n]) => make("li", { text: `${text} (${n} rows)` }))),
    ] : []),
  ];
}

/** Return the file as CSV with every line and cell, each with its line number and prediction. */
function predictedCsv(header, lines) {
  const width = lines.reduce((most, { cells }) => Math.max(most, cells.length), header.length);
  const filled = (cells) => Array.from({ length: width }, (_, i) => cells[i] ?? "");
  const ownName = (name) => (header.includes(name) ? ownName(`predicted_${name}`) : name);
  const names = ["line", "prediction_id", "label", "probability", "model_version", "problem", "notes"];
  const rows = lines.map(({ line, cells, prediction, problem }) => [...filled(cells), line, prediction?.prediction_id,
    prediction?.label, prediction?.probability, prediction?.model_version, problem, prediction?.notes?.join("; ")]);
  return [[...filled(header), ...names.map(ownName)], ...rows].map(csvLine).join("");
}

const csvLine = (cells) =>
  `${cells.map((one) => (/[",;\r\n]/.test(one ?? "") ? `"${String(one).replaceAll('"', '""')}"` : one ?? "")).join(",")}\r\n`;

/** Return a table of rows; those with a problem or a note come first. */
function resultsTable(rows) {
  const order = (row) => (row.problem ? 0 : row.prediction?.notes ? 1 : 2);
  const sorted = [...rows].sort((a, b) => order(a) - order(b));
  const shown = sorted.slice(0, MAX_SHOWN_ROWS).map(({ line, prediction, problem }) =>
    make("tr", {},
      make("th", { scope: "row", text: line }),
      make("td", { text: prediction?.label ?? "not predicted" }),
      make("td", { class: "number", text: prediction ? percent(prediction.probability) : "" }),
      make("td", { class: problem ? "problem" : "note", text: problem ?? prediction.notes?.join("; ") ?? "" }),
    ));
  const head = ["line", words(settings.target), "probability", "problem or note"].map((text) => make("th", { scope: "col", text }));
  const count = rows.length > MAX_SHOWN_ROWS ? `${MAX_SHOWN_ROWS} of ${rows.length} rows. The download has all rows.` : "All rows.";
  const caption = `${count} Rows with a problem or a note come first.`;
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

byId("record").addEventListener("submit", predictRecord);
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) predictFile(event.target.files[0]);
  event.target.value = ""; // lets the user choose the same file again
});
