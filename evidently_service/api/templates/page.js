// The page at /: puts newer figures in place, so that nobody loses their place in it.
"use strict";

const PERIOD_MS = 30_000;
const TIMEOUT_MS = 10_000;
const UNANSWERED = "The service does not answer: what is below is of an earlier time.";

const verdict = document.querySelector(".verdict");
const measured = document.getElementById("measured");

/** Only a verdict that has changed is put in place: it is read out. */
function say(words, kind) {
  if (verdict.textContent !== words) verdict.textContent = words;
  verdict.className = kind;
}

async function renew() {
  try {
    const answer = await fetch(location.href, {
      headers: { Accept: "text/html" },
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const [said, figures] = [page.querySelector(".verdict"), page.getElementById("measured")];
    measured.replaceChildren(...figures.childNodes);
    say(said.textContent, said.className);
  } catch {
    say(UNANSWERED, "verdict bad");
  }
}

setInterval(renew, PERIOD_MS);
