// The part of the script that all blind pages share. A page's own script stands before it and defines `page`:
//   noun            name of one item: prompt, text
//   words           id of the text area, and key of its text in an answer; wordsKey: the key that goes to it
//   blank           an answer before anything was chosen; isBlank(answer) says whether nothing was chosen yet
//   arranged        the item, with its parts in an order that is drawn by `shuffled`
//   show(item, answer)    shows an item
//   answer(item, answer)  the item's answer in the file
// It sets every text with textContent, so that no text can become markup.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const STORED = `kindling-${data.kind}-${data.identity}`;
const END = data.items.length;
// The answers are kept in two stores. localStorage outlives the tab, but under load Chromium sometimes shows it as empty
// to a page that is reloaded at once; sessionStorage does not have this fault. Where a browser has neither, the answers
// live as long as the page, and the page says so.
const STORES = ["localStorage", "sessionStorage"];
let state = restore() ?? fresh();
let order = orderFor(state.respondent);

function fresh() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const respondent = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  // at: index into `order`, -1 before the first item, END after the last one. given: id of an item -> its answer.
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
  return shuffled(data.items.map((item) => page.arranged(item, shuffled)));
}

const given = (item) => state.given[item.id] ?? page.blank;
const isBlank = (item) => page.isBlank(given(item));
const plural = (number) => `${number} ${page.noun}${number === 1 ? "" : "s"}`;

function change(part) {
  const item = order[state.at];
  state.given[item.id] = { ...given(item), ...part };
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
  if (!$("ask").hidden) {
    const item = order[state.at];
    page.show(item, given(item));
    $(page.words).value = given(item)[page.words];
  }
  if (!$("end").hidden) showEnd();
  showProgress();
}

function option({ name, value, key, text, checked, choose }) {
  const label = document.createElement("label");
  label.className = "answer";
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name, value, checked });
  input.addEventListener("change", choose);
  const words = document.createElement("span");
  words.className = "text";
  words.dir = "auto";
  showText(words, text, "(empty)");
  label.append(input, words);
  if (key.length === 1) {
    const shown = document.createElement("kbd");
    shown.textContent = key;
    input.dataset.key = key.toLowerCase();
    label.append(shown);
  }
  return label;
}

function showText(element, text, whereEmpty) {
  const empty = text.trim() === "";
  element.textContent = empty ? whereEmpty : text;
  element.classList.toggle("empty", empty);
}

function showProgress() {
  const answered = order.filter((item) => !isBlank(item)).length;
  $("bar").max = END;
  $("bar").value = answered;
  const noun = page.noun[0].toUpperCase() + page.noun.slice(1);
  const place = $("ask").hidden ? "" : `${noun} ${state.at + 1} of ${END} · `;
  $("where").textContent = `${place}${answered} answered`;
  $("finish").hidden = $("ask").hidden;
  $("top").hidden = state.at === -1;
}

function showEnd() {
  const blank = order.filter(isBlank).length;
  $("answered").textContent = blank
    ? `You answered ${END - blank} of ${plural(END)}. You may save them as they are, or go back to what is left.`
    : `You answered all ${plural(END)}.`;
  $("first-blank").hidden = !blank;
  $("saved").hidden = !state.saved;
  $("text").value = asFile();
  $("file").textContent = fileName();
}

const fileName = () => `answers-${data.identity.slice(0, 8)}-${state.respondent.slice(0, 8)}.json`;

function asFile() {
  const answers = order.map((item) => page.answer(item, given(item)));
  const { respondent } = state;
  const file = { format: 1, [data.kind]: data.identity, respondent, saved_at: new Date().toISOString(), answers };
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
  const key = event.key.toLowerCase();
  const writing = event.target.tagName === "TEXTAREA";
  if (writing && event.key === "Escape") document.querySelector("section:not([hidden]) h1").focus({ preventScroll: true });
  else if (event.key === "Enter" && (writing ? event.ctrlKey : !event.target.closest("button, summary"))) {
    // There is no page after the last one.
    if (state.at === END && !event.shiftKey) return;
    goTo(state.at + (event.shiftKey ? -1 : 1));
  } else if (writing || event.ctrlKey || $("ask").hidden) return;
  else if (key === page.wordsKey) $(page.words).focus();
  else if (/^[0-9a-z]$/.test(key)) {
    const input = document.querySelector(`[data-key="${key}"]`);
    if (!input) return;
    input.click();
    input.focus();
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
$(page.words).addEventListener("input", (event) => change({ [page.words]: event.target.value }));
$(page.words).maxLength = data.longest_words;
$("how-many").textContent = plural(END);
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
