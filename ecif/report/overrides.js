// The file of a review as text: rows of `uid,action` or JSON, as ecif/policy/overrides.py reads them.
const overrides = (() => {
  const quoted = (text) => (/[",\s#]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text);

  // verdicts: a Map from names, `sample:SHARD/KEY` or `uid:UID`, to keep or drop.
  function csv(verdicts) {
    return "uid,action\n" + [...verdicts].map(([entry, action]) => quoted(entry) + "," + action + "\n").join("");
  }

  function json(verdicts) {
    const found = [...verdicts].map(([entry, action]) => {
      const colon = entry.indexOf(":");
      return { [entry.slice(0, colon)]: entry.slice(colon + 1), action };
    });
    return JSON.stringify({ made: "ECIF report", overrides: found }, null, 1) + "\n";
  }

  // Rows of values; a quoted value may hold commas, and quotes twice.
  function rows(text) {
    const found = [[""]];
    let inside = false;
    for (let i = 0; i < text.length; i++) {
      const line = found[found.length - 1];
      const last = line.length - 1;
      if (inside && text[i] === '"' && text[i + 1] === '"') line[last] += text[i++];
      else if (text[i] === '"' && (inside || line[last] === "")) inside = !inside;
      else if (!inside && text[i] === ",") line.push("");
      else if (!inside && (text[i] === "\n" || text[i] === "\r")) found.push([""]);
      else line[last] += text[i];
    }
    return found.filter((line) => line.join("").trim() && !line[0].startsWith("#"));
  }

  function named(text) {
    if (!/^\s*[{[]/.test(text)) {
      const lines = rows(text);
      if (lines.length && /^(uid|key|sample)$/i.test(lines[0][0].trim())) lines.shift(); // the header
      return lines.map((line) => [line[0].trim(), (line[1] || "").trim().toLowerCase()]);
    }
    const value = JSON.parse(text);
    const list = Array.isArray(value) ? value : value.overrides || value;
    if (!Array.isArray(list)) return Object.entries(list);
    return list.map((item) => {
      const name = ["sample", "uid", "key"].find((one) => item && typeof item[one] === "string");
      return name ? [name + ":" + item[name], item.action] : ["", ""];
    });
  }

  // Pairs of a name and keep or drop; an error where the text is none of both.
  function read(text) {
    const found = named(text.replace(/^\uFEFF/, ""));
    for (const [name, action] of found) {
      if (!name || (action !== "keep" && action !== "drop")) throw new Error("no pair with keep or drop: " + (name || "an entry without a name"));
    }
    return found;
  }

  return { csv, json, read };
})();
