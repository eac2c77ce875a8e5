// One pair at a time, as large as the window allows: a dialog with a copy of the card. The browser keeps the focus
// inside and gives it back.
const zoom = (() => {
  const at = (id) => document.getElementById(id);
  const dialog = at("zoom");
  const waiting = [];
  let current = null;

  // Every card gets a button over its picture; without the script there is nothing to press.
  for (const card of gallery.cards) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "open";
    button.setAttribute("aria-label", "Enlarge pair " + card.key);
    button.addEventListener("click", () => open(card));
    card.node.querySelector(".frame").append(button);
    card.opener = button;
  }

  function show(card) {
    current = card;
    const copy = document.createElement("article");
    for (const part of card.node.children) {
      if (!part.matches(".say")) copy.append(part.cloneNode(true));
    }
    for (const button of copy.querySelectorAll("button")) button.remove();
    for (const details of copy.querySelectorAll("details")) details.open = true;
    at("zoom-pair").replaceChildren(copy);
    const cards = gallery.shown();
    const place = cards.indexOf(card);
    at("zoom-place").textContent = place < 0 ? "" : place + 1 + " of " + cards.length;
    at("zoom-previous").disabled = place <= 0;
    at("zoom-next").disabled = place < 0 || place === cards.length - 1;
    dialog.scrollTop = 0;
    for (const call of waiting) call();
  }

  function open(card) {
    if (!dialog.open) dialog.showModal();
    show(card);
  }

  function step(by) {
    const cards = gallery.shown();
    const next = cards[cards.indexOf(current) + by];
    if (next) show(next);
  }

  at("zoom-previous").addEventListener("click", () => step(-1));
  at("zoom-next").addEventListener("click", () => step(1));
  at("zoom-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // the backdrop
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) {
      step(by);
      event.preventDefault();
    }
  });
  dialog.addEventListener("close", () => {
    const card = current;
    current = null;
    for (const call of waiting) call(card);
    if (card && !card.node.hidden) {
      card.opener.focus({ preventScroll: true });
      card.node.scrollIntoView({ block: "nearest" });
    }
  });
  return { dialog, open, show, step, current: () => (dialog.open ? current : null), onchange: (call) => waiting.push(call) };
})();
