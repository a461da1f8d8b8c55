"use strict";
// Shows the samples that have all searched words, and without a search the first ones. Without a script all are shown.
(() => {
  const MAX_SHOWN = 12;
  const field = document.getElementById("search");
  if (!field) return;
  const all = document.getElementById("all");
  const samples = [...document.querySelectorAll("#samples article")];
  const texts = samples.map((sample) => sample.textContent.toLowerCase());
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const limit = words.length || all.checked ? samples.length : MAX_SHOWN;
    let shown = 0;
    samples.forEach((sample, at) => {
      sample.hidden = shown >= limit || !words.every((word) => texts[at].includes(word));
      shown += !sample.hidden;
    });
    document.getElementById("count").textContent = `${shown} of ${samples.length} shown`;
  };
  field.parentElement.hidden = false;
  field.addEventListener("input", show);
  all.addEventListener("change", show);
  show();
})();
