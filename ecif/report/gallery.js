"use strict";
// Which cards are shown, and in what order. All that is known of a card stands in its data- attributes; scores and
// ranks are lists in the order of the options of the sort control. Text from the page is read and compared, and never
// becomes markup.
const gallery = (() => {
  const at = (id) => document.getElementById(id);
  const numbers = (text) => (text ? text.split(" ").map(Number) : []);
  const cards = [...document.querySelectorAll("li.card")].map((node) => ({
    node,
    list: node.parentElement,
    sets: (node.dataset.sets || "").split(" "),
    places: numbers(node.dataset.places),
    fate: node.dataset.fate || "",
    why: node.dataset.why || "",
    group: node.dataset.group || "",
    scores: numbers(node.dataset.scores),
    ranks: numbers(node.dataset.ranks),
    entry: node.dataset.entry || "",
    uid: node.dataset.uid || "",
    key: node.dataset.key || "",
    name: node.querySelector(".where") ? node.querySelector(".where").textContent : "",
    text: [...node.querySelectorAll(".words, .where")].map((part) => part.textContent).join(" ").toLowerCase(),
    verdict: "",
  }));
  let order = [...cards];
  const waiting = [];

  const value = (id) => (at(id) ? at(id).value : "");
  const set = () => {
    const chosen = document.querySelector("input[name=set]:checked");
    return chosen ? chosen.value : "";
  };

  function fits(card, asked) {
    if (asked.set && !card.sets.includes(asked.set)) return false;
    if (asked.against && !card.sets.includes(asked.against)) return false;
    if (asked.fate && card.fate !== asked.fate) return false;
    if (asked.why && card.why !== asked.why) return false;
    if (asked.group && card.group !== asked.group) return false;
    if (asked.verdict && (card.verdict || "none") !== asked.verdict) return false;
    if (asked.from !== null || asked.to !== null) {
      const rank = 100 * card.ranks[asked.ranked];
      if (!(rank >= (asked.from === null ? 0 : asked.from) && rank <= (asked.to === null ? 100 : asked.to))) return false;
    }
    return asked.words.every((word) => card.text.includes(word));
  }

  function bound(id) {
    const given = value(id);
    return given === "" || Number.isNaN(Number(given)) ? null : Number(given);
  }

  function sorted() {
    const column = value("sort");
    const chosen = value("against") || set();
    // A set has an order of its own; the trace's cards stand in theirs.
    const place = (card) => (card.sets.includes(chosen) && card.places[card.sets.indexOf(chosen)]) || Infinity;
    if (column === "") return [...cards].sort((a, b) => (place(a) === place(b) ? 0 : place(a) - place(b)));
    const worse = at("sort").selectedOptions[0].dataset.worse === "high" ? -1 : 1;
    const sign = value("direction") === "best" ? -worse : worse;
    const known = (card) => Number.isFinite(card.scores[column]);
    return [...cards].sort((a, b) => {
      if (!known(a) || !known(b)) return known(b) - known(a);
      return sign * (a.scores[column] - b.scores[column]);
    });
  }

  function update() {
    const asked = {
      set: set(), against: value("against"), fate: value("fate"), why: value("why"), group: value("group"),
      verdict: value("verdict"),
      ranked: Number(value("ranked")), from: bound("from"), to: bound("to"),
      words: value("search").toLowerCase().split(/\s+/).filter(Boolean),
    };
    const next = sorted();
    if (next.some((card, place) => card !== order[place])) {
      order = next;
      for (const card of order) card.list.append(card.node);
    }
    for (const card of cards) card.node.hidden = !fits(card, asked);
    const count = shown().length;
    if (at("count")) at("count").textContent = count + " of " + cards.length + (cards.length === 1 ? " pair" : " pairs") + " shown";
    if (at("nothing")) at("nothing").hidden = count > 0;
    for (const call of waiting) call();
  }

  function shown() {
    return order.filter((card) => !card.node.hidden);
  }

  function reset() {
    for (const control of at("tools").querySelectorAll("select, input:not([type=radio])")) {
      if (control.tagName === "SELECT") control.selectedIndex = 0;
      else control.value = "";
    }
    const all = document.querySelector("input[name=set][value='']");
    if (all) all.checked = true;
    update();
  }

  // A link to a card that a filter hides would lead nowhere.
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#pair-"]');
    if (link && at(link.hash.slice(1)).hidden) reset();
  });

  // Links that show the pairs on which two scores disagree; without the script they lead to all pairs.
  for (const link of document.querySelectorAll("a[data-show]")) {
    link.addEventListener("click", () => {
      reset();
      at("against").value = link.dataset.show;
      at("further").open = true;
      update();
    });
  }

  if (at("tools")) {
    at("tools").hidden = false;
    at("tools").addEventListener("input", update);
    if (at("reset")) at("reset").addEventListener("click", reset);
    reset(); // a browser may bring back what was chosen before
  }
  return { cards, shown, update, onchange: (call) => waiting.push(call) };
})();
