"use strict";
// The script of a questionnaire; blind_page.js follows it.
const page = {
  noun: "prompt",
  words: "reason",
  wordsKey: "r",
  blank: { choice: null, reason: "" },
  isBlank: (answer) => answer.choice === null,
  arranged: (prompt, shuffled) => ({ ...prompt, answers: shuffled(prompt.answers) }),

  show(prompt, given) {
    showText($("prompt"), prompt.text, "(an empty prompt)");
    const choice = (value, key, text) =>
      option({ name: "answer", value, key, text, checked: given.choice === value, choose: () => change({ choice: value }) });
    const answers = prompt.answers.map((answer, i) => choice(answer.id, String(i + 1), answer.text));
    const tie = choice(data.tie, "0", "No difference: none is better than the others");
    tie.classList.add("wide");
    $("answers").replaceChildren(...answers, tie);
  },

  answer: (prompt, given) => ({ prompt: prompt.id, shown: prompt.answers.map((answer) => answer.id), ...given }),
};
