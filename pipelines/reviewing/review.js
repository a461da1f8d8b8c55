"use strict";
// The script of a review; blind_page.js follows it.
const page = {
  noun: "text",
  words: "note",
  wordsKey: "n",
  blank: { verdict: null, reason: "", note: "" },
  isBlank: (answer) => answer.verdict === null,
  arranged: (item) => item,

  show(item, answer) {
    $("title").textContent = `Text ${state.at + 1} of ${END}`;
    const emotion = item.emotion ? [["Emotion asked for", item.emotion]] : [];
    $("source").replaceChildren(...[...emotion, ...item.source].flatMap(([name, text]) => page.field(name, text)));
    showText($("judged"), item.text, "(empty)");
    const verdict = (value, key, text) =>
      option({ name: "verdict", value, key, text, checked: answer.verdict === value, choose: () => page.judge(value) });
    $("verdicts").replaceChildren(verdict("accepted", "A", "Accept"), verdict("rejected", "R", "Reject"));
    const reasons = data.reasons.map(([value, text], i) =>
      option({ name: "reason", value, key: String(i + 1), text, checked: answer.reason === value,
               choose: () => page.judge("rejected", value) }));
    $("reason-choices").replaceChildren(...reasons);
    $("reasons").hidden = answer.verdict !== "rejected";
  },

  field(name, text) {
    const term = document.createElement("dt");
    const value = document.createElement("dd");
    term.textContent = name;
    value.className = "text";
    value.dir = "auto";
    value.textContent = text;
    return [term, value];
  },

  // A reason is one of rejecting: to accept removes it.
  judge(verdict, reason = "") {
    change({ verdict, reason });
    for (const input of document.querySelectorAll("#verdicts input")) input.checked = input.value === verdict;
    for (const input of document.querySelectorAll("#reasons input")) input.checked = input.value === reason;
    $("reasons").hidden = verdict !== "rejected";
  },

  answer: (item, answer) => ({ row: item.id, ...answer }),
};
