"use strict";
// The script of a questionnaire page. It sets every text with textContent, so that no text can become markup.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const STORED = "kindling-questionnaire-" + data.questionnaire;
const END = data.prompts.length;
// The answers are kept in two stores. localStorage outlives the tab, but under load Chromium sometimes shows it as empty
// to a page that is reloaded at once; sessionStorage does not have this fault. Where a browser has neither, the answers
// live as long as the page, and the page says so.
const STORES = ["localStorage", "sessionStorage"];
let state = restore() ?? fresh();
let order = orderFor(state.respondent);

function fresh() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const respondent = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  // at: index into `order`, -1 before the first prompt, END after the last one. given: prompt id -> {choice, reason}.
  // saved: whether the saved file holds the present answers.
  return { respondent, at: -1, given: {}, saved: false };
}

function restore() {
  for (const store of STORES) {
    try {
      const found = JSON.parse(window[store].getItem(STORED));
      if (found) return found;
    } catch {
      if (store === "localStorage") $("storage").hidden = false;
    }
  }
  return null;
}

function keep() {
  for (const store of STORES) {
    let kept = true;
    try {
      window[store].setItem(STORED, JSON.stringify(state));
    } catch {
      kept = false;
    }
    if (store === "localStorage") $("storage").hidden = kept;
  }
}

// A generator of random numbers (sfc32 by Chris Doty-Humphrey, from PractRand) that is seeded with the respondent's id: a
// reloaded page shows the same orders.
function generator(seed) {
  let [a, b, c, d] = [0, 8, 16, 24].map((at) => parseInt(seed.slice(at, at + 8), 16) | 0);
  const draw = () => {
    const sum = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum | 0;
    return (sum >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 12; i++) draw();
  return draw;
}

function orderFor(respondent) {
  const draw = generator(respondent);
  const shuffled = (list) => {
    const copy = [...list];
    for (let i = copy.length - 1; i > 0; i--) {
      const j = Math.floor(draw() * (i + 1));
      [copy[i], copy[j]] = [copy[j], copy[i]];
    }
    return copy;
  };
  return shuffled(data.prompts.map((prompt) => ({ ...prompt, answers: shuffled(prompt.answers) })));
}

const given = (prompt) => state.given[prompt.id] ?? { choice: null, reason: "" };
const isBlank = (prompt) => given(prompt).choice === null;

function change(part) {
  const prompt = order[state.at];
  state.given[prompt.id] = { ...given(prompt), ...part };
  state.saved = false;
  keep();
  showProgress();
}

function goTo(at) {
  state.at = Math.max(-1, Math.min(END, at));
  keep();
  show();
  scrollTo(0, 0);
  document.querySelector("section:not([hidden]) h1").focus({ preventScroll: true });
}

function show() {
  $("start").hidden = state.at !== -1;
  $("ask").hidden = state.at < 0 || state.at === END;
  $("end").hidden = state.at !== END;
  if (!$("ask").hidden) showPrompt(order[state.at]);
  if (!$("end").hidden) showEnd();
  showProgress();
}

function showPrompt(prompt) {
  showText($("prompt"), prompt.text, "(an empty prompt)");
  const answers = prompt.answers.map((answer, i) => option(answer.id, String(i + 1), answer.text));
  const tie = option(data.tie, "0", "No difference: none is better than the others");
  tie.classList.add("tie");
  $("answers").replaceChildren(...answers, tie);
  $("reason").value = given(prompt).reason;
}

function option(id, number, text) {
  const label = document.createElement("label");
  label.className = "answer";
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: "answer", value: id, checked: given(order[state.at]).choice === id });
  input.addEventListener("change", () => change({ choice: id }));
  const words = document.createElement("span");
  words.className = "text";
  words.dir = "auto";
  showText(words, text, "(an empty response)");
  label.append(input, words);
  if (number.length === 1) {
    const key = document.createElement("kbd");
    key.textContent = number;
    input.dataset.key = number;
    label.append(key);
  }
  return label;
}

function showText(element, text, whereEmpty) {
  const empty = text.trim() === "";
  element.textContent = empty ? whereEmpty : text;
  element.classList.toggle("empty", empty);
}

function showProgress() {
  const answered = order.filter((prompt) => !isBlank(prompt)).length;
  $("bar").max = END;
  $("bar").value = answered;
  const place = $("ask").hidden ? "" : `Prompt ${state.at + 1} of ${END} · `;
  $("where").textContent = `${place}${answered} answered`;
  $("finish").hidden = $("ask").hidden;
  $("top").hidden = state.at === -1;
}

function showEnd() {
  const blank = order.filter(isBlank).length;
  $("answered").textContent = blank
    ? `You answered ${END - blank} of ${END} prompts. You may save them as they are, or go back to what is left.`
    : `You answered all ${END} prompts.`;
  $("first-blank").hidden = !blank;
  $("saved").hidden = !state.saved;
  $("text").value = asFile();
  $("file").textContent = fileName();
}

const fileName = () => `answers-${data.questionnaire.slice(0, 8)}-${state.respondent.slice(0, 8)}.json`;

function asFile() {
  const answers = order.map((prompt) => {
    const { choice, reason } = given(prompt);
    return { prompt: prompt.id, shown: prompt.answers.map((answer) => answer.id), choice, reason };
  });
  const { questionnaire } = data;
  const file = { format: 1, questionnaire, respondent: state.respondent, saved_at: new Date().toISOString(), answers };
  return JSON.stringify(file, null, 1);
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([asFile()], { type: "application/json" }));
  link.download = fileName();
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  state.saved = true;
  keep();
  show();
}

function startAnew() {
  state = fresh();
  order = orderFor(state.respondent);
  goTo(-1);
}

document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.altKey || event.metaKey) return;
  const writing = event.target.tagName === "TEXTAREA";
  if (writing && event.key === "Escape") $("prompt").focus({ preventScroll: true });
  else if (event.key === "Enter" && (writing ? event.ctrlKey : !event.target.closest("button, summary"))) {
    // There is no page after the last one.
    if (state.at === END && !event.shiftKey) return;
    goTo(state.at + (event.shiftKey ? -1 : 1));
  } else if (writing || event.ctrlKey || $("ask").hidden) return;
  else if (event.key === "r" || event.key === "R") $("reason").focus();
  else if (/^[0-9]$/.test(event.key)) {
    const input = document.querySelector(`[data-key="${event.key}"]`);
    if (!input) return;
    input.focus();
    input.click();
  } else return;
  event.preventDefault();
});

$("begin").addEventListener("click", () => goTo(0));
$("back").addEventListener("click", () => goTo(state.at - 1));
$("next").addEventListener("click", () => goTo(state.at + 1));
$("finish").addEventListener("click", () => goTo(END));
$("again").addEventListener("click", () => goTo(0));
$("first-blank").addEventListener("click", () => goTo(order.findIndex(isBlank)));
$("save").addEventListener("click", save);
$("new").addEventListener("click", startAnew);
$("reason").addEventListener("input", (event) => change({ reason: event.target.value }));
$("reason").maxLength = data.longest_reason;
$("how-many").textContent = END === 1 ? "one prompt" : `${END} prompts`;
// Another tab with this page has changed the answers: show them.
addEventListener("storage", (event) => {
  if (event.key !== STORED || !event.newValue) return;
  state = JSON.parse(event.newValue);
  order = orderFor(state.respondent);
  show();
});
addEventListener("beforeunload", (event) => {
  if (!$("storage").hidden && !state.saved && Object.keys(state.given).length) event.preventDefault();
});
// Nothing is written to the stores before the first change. If a browser fails to show kept answers, as above, an empty
// state must not overwrite them.
show();
