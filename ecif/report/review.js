// The review: a verdict for each pair, kept in this browser, saved as the overrides file that `ecif plan` reads.
// A verdict belongs to a name (`sample:SHARD/KEY`, `uid:UID`); names of a file that was read and that no card has are
// carried along and saved again.
(() => {
  const at = (id) => document.getElementById(id);
  if (!at("bar")) return;
  const place = at("pairs").dataset;
  const verdicts = new Map();
  const byEntry = new Map();
  const aliases = new Map();
  for (const card of gallery.cards) {
    if (!card.entry) continue;
    if (!byEntry.has(card.entry)) byEntry.set(card.entry, []);
    byEntry.get(card.entry).push(card);
    for (const name of [card.uid, "uid:" + card.uid, card.key, "key:" + card.key]) {
      aliases.set(name, aliases.has(name) && aliases.get(name) !== card.entry ? null : card.entry);
    }
  }
  const steps = [];
  let current = null;
  let reviewing = false;
  let kept = true; // by the browser
  let saved = true;

  // What is known.
  function remember() {
    try {
      localStorage.setItem(place.keptUnder, JSON.stringify([...verdicts]));
    } catch {
      kept = false;
    }
    at("unkept").hidden = kept;
  }

  function recall() {
    try {
      for (const [entry, action] of JSON.parse(localStorage.getItem(place.keptUnder) || "[]")) {
        if (action === "keep" || action === "drop") verdicts.set(String(entry), action);
      }
      localStorage.setItem(place.keptUnder, JSON.stringify([...verdicts]));
    } catch {
      kept = false;
    }
    at("unkept").hidden = kept;
  }

  function change(changes) {
    const before = [];
    for (const [entry, action] of changes) {
      before.push([entry, verdicts.get(entry) || ""]);
      if (action) verdicts.set(entry, action);
      else verdicts.delete(entry);
    }
    saved = false;
    remember();
    paint();
    return before;
  }

  // What is seen.
  function paint() {
    for (const card of gallery.cards) {
      card.verdict = verdicts.get(card.entry) || "";
      if (card.verdict) card.node.dataset.verdict = card.verdict;
      else delete card.node.dataset.verdict;
      for (const button of card.node.querySelectorAll(".say button")) {
        button.setAttribute("aria-pressed", String(button.dataset.action === card.verdict));
      }
    }
    const all = gallery.cards.filter((card) => card.entry);
    const count = (verdict) => all.filter((card) => card.verdict === verdict).length;
    at("progress").max = all.length || 1;
    at("progress").value = all.length - count("");
    at("standing").textContent = count("keep") + " keep, " + count("drop") + " drop, " + count("") + " undecided";
    mark();
  }

  function mark() {
    const enlarged = zoom.current();
    for (const card of gallery.cards) {
      const is = reviewing && card === (enlarged || current);
      card.node.classList.toggle("current", is);
      if (is) card.node.setAttribute("aria-current", "true");
      else card.node.removeAttribute("aria-current");
    }
    const now = enlarged || current;
    if (enlarged) at("zoom").dataset.verdict = enlarged.verdict;
    for (const action of ["keep", "drop"]) {
      at(action).disabled = !now || !now.entry;
      at(action).setAttribute("aria-pressed", String(Boolean(now) && now.verdict === action));
    }
    at("undo").disabled = !steps.length && !(now && now.verdict);
  }

  function go(card) {
    if (!card) return;
    current = card;
    if (zoom.current()) zoom.show(card);
    else {
      card.node.tabIndex = -1;
      card.node.focus({ preventScroll: true });
      card.node.scrollIntoView({ block: "nearest" });
    }
    mark();
  }

  function neighbour(by) {
    const cards = gallery.shown();
    const here = cards.indexOf(current);
    return here < 0 ? cards[0] : cards[here + by];
  }

  function row() {
    const cards = gallery.shown();
    return Math.max(1, cards.filter((card) => card.node.offsetTop === cards[0].node.offsetTop).length);
  }

  // What is said.
  function say(action, card) {
    if (!card || !card.entry) return;
    current = card;
    const next = neighbour(1);
    steps.push(change([[card.entry, action]]));
    gallery.update();
    if (next) go(next);
    else mark();
  }

  function undo() {
    if (current && current.verdict) {
      steps.push(change([[current.entry, ""]]));
    } else if (steps.length) {
      const before = steps.pop();
      change(before);
      gallery.update();
      const cards = byEntry.get(before[0][0]);
      if (cards) go(cards[0]);
    }
    gallery.update();
    mark();
  }

  // Files.
  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    saved = true;
    at("said").textContent = verdicts.size + (verdicts.size === 1 ? " verdict" : " verdicts") + " saved as " + name + ".";
  }

  function read(text) {
    const changes = [];
    let elsewhere = 0;
    for (const [name, action] of overrides.read(text)) {
      let entry = byEntry.has(name) ? name : aliases.get(name);
      if (!entry) {
        elsewhere++;
        entry = /^(sample|uid|key):/.test(name) ? name : (/^[0-9a-f]{32}$/i.test(name) ? "uid:" : "key:") + name;
      }
      changes.push([entry, action]);
    }
    steps.push(change(changes));
    gallery.update();
    return changes.length + " verdicts read" + (elsewhere ? ", " + elsewhere + " of pairs that are not on this page; they are saved again" : "") + ".";
  }

  async function load() {
    const file = at("load").files[0];
    if (!file) return;
    try {
      at("said").textContent = read(await file.text());
    } catch (error) {
      at("said").textContent = "This is no saved review, and nothing was changed: " + error.message;
    }
    at("load").value = "";
  }

  // Controls.
  function begin() {
    for (const card of gallery.cards) {
      if (card.node.querySelector(".say")) continue;
      const said = document.createElement("div");
      said.className = "say";
      for (const [action, label] of card.entry ? [["keep", "Keep"], ["drop", "Drop"]] : []) {
        const button = document.createElement("button");
        button.type = "button";
        button.className = action;
        button.dataset.action = action;
        button.textContent = label;
        button.setAttribute("aria-label", label + " pair " + card.key);
        button.addEventListener("click", () => {
          current = card;
          if (card.verdict === action) undo();
          else { steps.push(change([[card.entry, action]])); mark(); }
        });
        said.append(button);
      }
      if (!card.entry) said.textContent = "Its names cannot stand in a file of overrides.";
      card.node.append(said);
    }
  }

  function toggle() {
    reviewing = !reviewing;
    if (reviewing) begin();
    document.body.classList.toggle("reviewing", reviewing);
    at("bar").hidden = at("panel").hidden = !reviewing;
    at("review").setAttribute("aria-pressed", String(reviewing));
    at("review").textContent = reviewing ? "End the review" : "Review these pairs";
    paint();
    if (reviewing) go(gallery.shown().find((card) => card.entry && !card.verdict) || gallery.shown()[0]);
  }

  const keys = {
    k: () => say("keep", current), d: () => say("drop", current), u: undo,
    j: () => go(neighbour(1)), n: () => go(neighbour(1)), p: () => go(neighbour(-1)),
    ArrowRight: () => go(neighbour(1)), ArrowLeft: () => go(neighbour(-1)),
    ArrowDown: () => go(neighbour(row())), ArrowUp: () => go(neighbour(-row())),
    z: () => current && !zoom.current() && zoom.open(current),
    "?": () => at("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (!reviewing || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || at("help").open) return;
    if (event.target.closest("input, select, textarea, summary, pre, .scroll")) return;
    const does = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!does) return;
    event.preventDefault();
    does();
  });
  at("review").addEventListener("click", toggle);
  at("keep").addEventListener("click", () => say("keep", current));
  at("drop").addEventListener("click", () => say("drop", current));
  at("undo").addEventListener("click", undo);
  at("previous").addEventListener("click", () => go(neighbour(-1)));
  at("next").addEventListener("click", () => go(neighbour(1)));
  at("help-open").addEventListener("click", keys["?"]);
  at("help-close").addEventListener("click", () => at("help").close());
  at("save-csv").addEventListener("click", () => save(place.file, "text/csv", overrides.csv(verdicts)));
  at("save-json").addEventListener("click", () => save(place.file.replace(/\.csv$/, ".json"), "application/json", overrides.json(verdicts)));
  at("load").addEventListener("change", load);
  at("clear").addEventListener("click", () => {
    steps.push(change([...verdicts.keys()].map((entry) => [entry, ""])));
    gallery.update();
    at("said").textContent = "All verdicts are cleared; Undo brings them back.";
  });
  zoom.onchange((closed) => {
    // A dialog covers the page, so the bar goes with the enlarged pair.
    const enlarged = zoom.current();
    if (enlarged) current = enlarged;
    else if (closed) current = closed;
    const home = enlarged ? at("zoom") : at("panel").parentElement;
    if (at("bar").parentElement !== home) home.append(at("bar"));
    mark();
  });
  gallery.onchange(() => {
    if (reviewing && current && current.node.hidden) current = gallery.shown()[0] || null;
    mark();
  });
  addEventListener("beforeunload", (event) => {
    if (!kept && !saved && verdicts.size) event.preventDefault();
  });
  addEventListener("storage", (event) => {
    if (event.key !== place.keptUnder) return; // the same page in another tab
    verdicts.clear();
    recall();
    paint();
  });
  recall();
  paint();
  if (verdicts.size) at("review").textContent = "Go on reviewing";
})();
