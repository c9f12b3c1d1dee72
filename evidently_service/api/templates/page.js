// The status page: replaces its figures in place, so that readers keep their position.
"use strict";

const PERIOD_MS = 30_000;
const TIMEOUT_MS = 10_000;
const UNAVAILABLE = "The service does not respond. The figures below are out of date.";

const verdict = document.querySelector(".verdict");
const figures = document.getElementById("figures");

/** Replace the verdict only if it has changed: screen readers read each replacement aloud. */
function showVerdict(text, className) {
  if (verdict.textContent !== text) verdict.textContent = text;
  verdict.className = className;
}

async function refresh() {
  try {
    const response = await fetch(location.href, {
      headers: { Accept: "text/html" },
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (!response.ok) throw new Error(response.status);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const newVerdict = page.querySelector(".verdict");
    for (const { id } of figures.querySelectorAll("details[open]")) {
      page.getElementById(id)?.setAttribute("open", "");  // a reader's runbook stays open
    }
    figures.replaceChildren(...page.getElementById("figures").childNodes);
    showVerdict(newVerdict.textContent, newVerdict.className);
  } catch {
    showVerdict(UNAVAILABLE, "verdict bad");
  }
}

setInterval(refresh, PERIOD_MS);
