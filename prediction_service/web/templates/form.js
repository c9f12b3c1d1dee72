// The page at /: sends a form or a CSV file to /predict and shows the predictions.
"use strict";

const TIMEOUT_MS = 30_000;
const MAX_FILE_ROWS = 100_000;
const MAX_SHOWN_ROWS = 200;
const MAX_SHOWN_NOTES = 20;
const SEPARATORS = { ",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars" };
const INTEGER = /^[-+]?[0-9]{1,18}(\.0*)?$/; // as in config/feature.py
const NUMBER = /^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?$/;
const BINS = 10;

const settings = document.body.dataset;
const columns = JSON.parse(settings.columns); // the model's columns, as in form.py
const missingMarks = JSON.parse(settings.missingMarks);
const byId = (id) => document.getElementById(id);
let currentRun = 0; // a newer file stops the run of an older one
let downloadUrl = "";

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
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** Return a bar from `left` to `left + width`, both in percent. */
function makeBar(left, width, look = "") {
  const bar = make("div", { class: look });
  bar.style.left = `${left}%`;
  if (width) bar.style.width = `${width}%`;
  return bar;
}

/** Return a table. */
function makeTable(look, caption, heads, rows) {
  const head = heads.map((text) => make("th", { scope: "col", text }));
  return make("table", { class: look }, make("caption", { text: caption }),
    make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
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
  const query = new URLSearchParams({ source: "page", explain, record: !byId("dry-run").checked });
  let response, content;
  try {
    response = await fetch(`predict?${query}`, {
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
  if (response.status === 501 && explain) return predict(body, false, idempotencyKey); // it cannot explain
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
  element.replaceChildren(make("p", { class: "bad", text: error.message }), make("ul", {}, ...problems));
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

/** Return the record in the form. */
function readForm() {
  const entered = new FormData(byId("record"));
  const values = columns.map((column) => {
    const text = entered.get(column.name).trim();
    return [column.name, text === "" ? null : parseValue(column, text)];
  });
  return Object.fromEntries(values);
}

async function predictRecord(event) {
  event.preventDefault();
  const record = readForm();
  const button = event.target.querySelector("button");
  button.disabled = true;
  button.textContent = "Predicting …"; // the first explanation of a worker takes seconds
  byId("explanation").replaceChildren();
  markInputs([]);
  try {
    showPrediction(record, await predict(record, true));
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    showError(byId("outcome"), error);
    markInputs(error.problems);
  } finally {
    button.disabled = false;
    button.textContent = "Predict";
  }
  markStale(JSON.stringify(readForm()) !== JSON.stringify(record));
}

/** Grey the prediction if it is not that of the form. */
function markStale(isStale) {
  byId("prediction").classList.toggle("stale", isStale && byId("outcome").hasChildNodes());
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

function showPrediction(record, { prediction_id, probability, threshold, message, model_version, notes = [], explanation }) {
  const scale = make("div", { class: "track scale", "aria-hidden": "true" });
  scale.append(makeBar(0, 100 * probability), makeBar(100 * threshold, 0, "mark"));
  const sentence =
    `The line is the threshold, ${percent(threshold)}: from there on, the model calls a record ${settings.positive}. ` +
    `Model version ${model_version}. ${prediction_id ? `Stored as ${prediction_id}.` : "Nothing was stored."}`;
  byId("outcome").replaceChildren( // screen readers announce this element, without the explanation
    make("p", { class: "verdict", text: message }),
    scale,
    make("p", { text: sentence }),
    ...notes.map((text) => make("p", { class: "unsure", text })),
    ...(explanation?.unusual ?? []).map((pair) => make("p", { class: "unsure", text: `Unlike the model's data: ${pair}.` })),
  );
  byId("explanation").replaceChildren(
    ...(explanation ? explain(record, explanation) : [
      make("p", { class: "soft", text: "This model version cannot explain its predictions." }),
    ]),
  );
  const { top, bottom } = byId("outcome").getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) byId("prediction").scrollIntoView();
}

/** Return the reasons, and the contributions as bars, largest first. */
function explain(record, { reasons, contributions }) {
  const sorted = Object.entries(contributions).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const largest = Math.abs(sorted[0][1]) || 1;
  const rows = sorted.map(([name, value]) => {
    const length = (50 * Math.abs(value)) / largest;
    const bar = value > 0 ? makeBar(50, length, "up") : makeBar(50 - length, length, "down");
    return make("tr", {},
      make("th", { scope: "row", text: words(name) }),
      make("td", { text: record[name] ?? "not given" }),
      make("td", { class: "bar", "aria-hidden": "true" }, make("div", { class: "track" }, bar, makeBar(50, 0, "mark"))),
      make("td", { class: "number", text: signed(value) }),
    );
  });
  const caption = `What each value adds to the score, in log-odds. Bars to the right favour ${settings.positive}.`;
  return [
    make("p", { text: "Compared with the average record of the training data:" }),
    make("ul", {}, ...reasons.map((text) => make("li", { text }))),
    make("div", { class: "wide" }, makeTable("bars", caption, ["feature", "value", "", "log-odds"], rows)),
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
    const look = term === "not found" ? { class: "bad" } : {};
    return [make("dt", { ...look, text: term }), make("dd", { ...look, text: names.join(", ") })];
  })));
}

/** Throw RequestError for a table without a required column, with a column twice, or without valid size. */
function checkTable({ headerLine, matched, missing, rows }) {
  const n = rows.filter((row) => !row.isBlank).length;
  const required = missing.filter((one) => !one.is_optional);
  if (required.length) {
    throw new RequestError(`Line ${headerLine} has no column ${listNames(required)}. These are required. Rename or add them.`);
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
      const n = table.header.length;
      throw new RequestError(`Line ${table.headerLine} names no column of the model. Its ${n} cells must be names. If they are the values ` +
        `of a row, add a line above it with ${n} names, these among them: ${listNames(columns)}.`);
    }
    showColumns(table);
    checkTable(table);
    const file = { ...table, name: chosen.name, key: `${Date.now()}-${Math.random()}` };
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
    make("p", { class: "bad", text }),
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
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (run !== currentRun) return;
    failure = error;
  }
  showResults(file, failure);
}

/** Show the predictions of a file. `failure` is the reason for open rows, or null. */
function showResults(file, failure) {
  const rows = file.rows.filter((row) => row.prediction || row.problem);
  const predictions = rows.flatMap((row) => row.prediction ?? []);
  const n = file.rows.filter((row) => !row.isBlank).length;
  byId("progress").replaceChildren(...summarize(file, rows, predictions, n));
  if (failure) {
    const retry = make("button", { type: "button", text: `Predict the other ${n - rows.length} rows` });
    retry.addEventListener("click", () => predictRows(file));
    byId("progress").prepend(make("p", { class: "bad", text: failure.message }), retry);
  }
  URL.revokeObjectURL(downloadUrl);
  downloadUrl = URL.createObjectURL(new Blob([predictedCsv(file)], { type: "text/csv" }));
  const download = `${file.name.replace(/\.csv$/i, "")}-predicted.csv`;
  byId("results").replaceChildren(
    ...(predictions.length ? [histogram(predictions)] : []),
    make("p", {}, make("a", { href: downloadUrl, download, text: `Download ${download}` })),
    resultsTable(rows),
  );
}

/** Return paragraphs with the counts of a file: predictions, problems, notes, and columns that it lacks. */
function summarize({ name, missing, rows: lines }, rows, predictions, n) {
  const positive = predictions.filter((one) => one.income_class === 1).length;
  const bad = rows.length - predictions.length;
  const blank = lines.length - n;
  const noted = predictions.filter((one) => one.notes);
  const counts = new Map();
  for (const text of noted.flatMap((one) => one.notes)) counts.set(text, (counts.get(text) ?? 0) + 1);
  const commonest = [...counts].sort((a, b) => b[1] - a[1]).slice(0, MAX_SHOWN_NOTES);
  const isCalm = rows.length === n && !missing.length && !noted.length;
  const summary = [
    `${name}: ${predictions.length} of ${n} rows predicted, ${positive} of them ${settings.positive}.`,
    bad ? `Rows with a problem, listed first: ${bad}.` : isCalm ? "Every row is valid." : "",
    blank ? `Blank lines: ${blank}.` : "",
    predictions.some((one) => one.prediction_id) ? "" : "Nothing was stored.",
    "Values that are rare together are shown for one record only, above.",
  ];
  return [
    make("p", { text: summary.filter(Boolean).join(" ") }),
    ...(missing.length ? [make("p", { class: "bad", text: `All rows were predicted without ${listNames(missing)}.` })] : []),
    ...(noted.length ? [
      make("p", { class: "unsure", text: `Rows with a value that the model reads as missing: ${noted.length}.` }),
      make("ul", { class: "unsure" }, ...commonest.map(([text, times]) => make("li", { text: `${text}: ${times}` })),
        ...(counts.size > commonest.length ? [make("li", { text: `${counts.size - commonest.length} more, in the download` })] : [])),
    ] : []),
  ];
}

/** Return the file as CSV with every line and cell, each with its line number and prediction. */
function predictedCsv({ header, rows }) {
  const width = rows.reduce((most, { cells }) => Math.max(most, cells.length), header.length);
  const filled = (cells) => Array.from({ length: width }, (_, i) => cells[i] ?? "");
  const ownName = (name) => (header.includes(name) ? ownName(`predicted_${name}`) : name);
  const names = ["line", "prediction_id", "label", "probability", "model_version", "problem", "notes"];
  const lines = rows.map(({ line, cells, prediction, problem, isBlank }) => [...filled(cells), line, prediction?.prediction_id,
    prediction?.label, prediction?.probability, prediction?.model_version,
    problem ?? (prediction || isBlank ? "" : "not predicted"), prediction?.notes?.join("; ")]);
  return [[...filled(header), ...names.map(ownName)], ...lines].map(csvLine).join("");
}

const csvLine = (cells) =>
  `${cells.map((one) => (/[",;\r\n]/.test(one ?? "") ? `"${String(one).replaceAll('"', '""')}"` : one ?? "")).join(",")}\r\n`;

/** Return a table of rows; those with a problem or a note come first. */
function resultsTable(rows) {
  const order = (row) => (row.problem ? 0 : row.prediction.notes ? 1 : 2);
  const sorted = [...rows].sort((a, b) => order(a) - order(b));
  const shown = sorted.slice(0, MAX_SHOWN_ROWS).map(({ line, prediction, problem }) =>
    make("tr", {},
      make("th", { scope: "row", text: line }),
      make("td", { text: prediction?.label ?? "not predicted" }),
      make("td", { text: prediction ? percent(prediction.probability) : "" }),
      make("td", { class: problem ? "bad" : "unsure", text: problem ?? prediction.notes?.join("; ") ?? "" }),
    ));
  const count = rows.length > MAX_SHOWN_ROWS ? `${MAX_SHOWN_ROWS} of ${rows.length} rows. The download has all rows.` : "All rows.";
  const heads = ["line", words(settings.target), "probability", "problem or note"];
  return make("div", { class: "tall", role: "region", tabindex: 0, "aria-label": "Rows of the file" },
    makeTable("", `${count} Rows with a problem or a note come first.`, heads, shown));
}

/** Return a histogram of probabilities: a bar and a count for each tenth. */
function histogram(predictions) {
  const { threshold } = predictions[0];
  const counts = new Array(BINS).fill(0);
  const binOf = (probability) => Math.min(BINS - 1, Math.floor(probability * BINS));
  for (const { probability } of predictions) counts[binOf(probability)]++;
  const maximum = Math.max(...counts);
  const rows = counts.map((count, i) => {
    const range = `${(100 * i) / BINS} to ${(100 * (i + 1)) / BINS} %`;
    return make("tr", {},
      make("th", { scope: "row", text: i === binOf(threshold) ? `${range}, threshold ${percent(threshold)}` : range }),
      make("td", { class: "bar", "aria-hidden": "true" }, make("div", { class: "track" }, makeBar(0, (100 * count) / maximum))),
      make("td", { class: "number", text: count }),
    );
  });
  return makeTable("bars counts", "Rows by probability", [`probability of ${settings.positive}`, "", "rows"], rows);
}

byId("record").addEventListener("submit", predictRecord);
byId("record").addEventListener("input", () => markStale(true));
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) predictFile(event.target.files[0]);
  event.target.value = ""; // lets the user choose the same file again
});
