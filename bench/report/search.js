"use strict";
const $ = (s, at = document) => at.querySelector(s), el = (tag, cls, text) => { const e = document.createElement(tag); if (cls) e.className = cls; if (text != null) e.textContent = text; return e; };
const M = JSON.parse($("#meta").textContent);
M.quiet = new Set(M.quiet);   // words that are not proposed unasked
const bytes = (id) => { const b = atob($("#" + id).textContent), a = new Uint8Array(b.length); for (let i = 0; i < b.length; i++) a[i] = b.charCodeAt(i); return a; };
const SRC = ["head", "random", "shuffled"];
const BY = { head: "by the head", random: "by random vectors", shuffled: "by shuffled names" };
const TITLES = { head: "Head", random: "Random vectors", shuffled: "Names shuffled" };
const DEKS = { head: "The classifier’s own class vectors.", random: "Random vectors of the same lengths.", shuffled: "The class vectors, under each other’s names." };
const [n, nw, ns, dt, d] = [M.files.length, M.n_words, M.support, M.dt, M.d];
const words = M.words, lower = words.map((w) => w.toLowerCase());
const at = new Map(); lower.forEach((w, i) => { if (!at.has(w)) at.set(w, i); });
const each = (name, as) => SRC.map((by) => new as(bytes(name + "-" + by).buffer));
const L = each("lists", Uint16Array), deep = L.map((l) => l.length / nw);   // of each word the best pictures, exact
const W = new Int8Array(bytes("texts").buffer);                             // words, then modifiers: dt numbers each
const S = new Int8Array(bytes("support").buffer), wide = new Float32Array(bytes("support-scale").buffer);   // names of the head's classes
const D = each("dual", Int8Array), DS = each("dual-scale", Float32Array), P = each("pictures", Int8Array), PS = each("pictures-scale", Float32Array), H = each("hubs", Float32Array);
const like = new Uint16Array(bytes("like").buffer), best = each("best", Uint16Array), bestScore = each("best-score", Uint8Array), tops = each("top", Float32Array);
const near = new Uint16Array(bytes("near").buffer), nearness = bytes("nearness");
const thumbs = M.serve ? "" : $("#thumbs").textContent, cut = M.thumbs;
const src = (i) => M.serve ? "/thumbnail/" + i : "data:image/webp;base64," + thumbs.slice(cut[i], cut[i + 1]);
const paths = M.files.map((f) => new Set(M.named ? f.replace(/\.\w+$/, "").replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase().split(/[^\p{L}]+/u).flatMap((t) => [t, t.replace(/s$/, "")]) : []));
const stem = (i) => M.named ? M.files[i].split("/").pop().replace(/\.\w+$/, "").replace(/[_-]+/g, " ") : M.files[i];
const fmt = (x) => x.toLocaleString("en");

// ---- phrases: kernel ridge on the head's classes, in few dimensions -------------------------
const unit = (v) => { let s = 0; for (const x of v) s += x * x; s = Math.sqrt(s) || 1; for (let i = 0; i < v.length; i++) v[i] /= s; return v; };
function textOf(ids) { const v = new Float32Array(dt); for (const w of ids) for (let j = 0; j < dt; j++) v[j] += W[w * dt + j]; return unit(v); }
function kernel(v) {
  const k = new Float32Array(ns);
  for (let i = 0; i < ns; i++) { let s = 0; for (let j = 0, o = i * dt; j < dt; j++) s += S[o + j] * v[j]; k[i] = Math.exp(2 * M.gamma * (s * wide[i] - 1)); }
  return k;
}
function order(k, by) {
  const q = new Float32Array(d), s = new Float32Array(n), o = new Uint32Array(n); let top = 0;
  for (let i = 0; i < ns; i++) { const c = k[i] * DS[by][i]; for (let j = 0, a = i * d; j < d; j++) q[j] += c * D[by][a + j]; }
  for (let i = 0; i < n; i++) { let t = 0; for (let j = 0, a = i * d; j < d; j++) t += P[by][a + j] * q[j]; s[i] = t * PS[by][i]; top = Math.max(top, s[i]); o[i] = i; }
  for (let i = 0; i < n; i++) s[i] = tops[by][0] * s[i] / top - H[by][i] / 2;   // the length of q is lost: as near as words are
  return Array.from(o.sort((a, b) => s[b] - s[a]).subarray(0, Math.min(n, deep[by])));
}
function answers(q) {
  if (q.ids.length === 1 && q.ids[0] < nw) return SRC.map((_, by) => Array.from(L[by].subarray(q.ids[0] * deep[by], (q.ids[0] + 1) * deep[by])));
  const k = kernel(textOf(q.ids)); return SRC.map((_, by) => order(k, by));
}
function alike(v, many, skip) {
  const s = new Float32Array(nw), best_ = [];
  for (let i = 0; i < nw; i++) { let t = 0; for (let j = 0, o = i * dt; j < dt; j++) t += W[o + j] * v[j]; s[i] = t; }
  for (let i = 0; i < nw; i++) if (!skip.has(i) && !M.quiet.has(i) && (best_.length < many || s[i] > s[best_[many - 1]])) { best_.push(i); best_.sort((a, b) => s[b] - s[a]); best_.length = Math.min(best_.length, many); }
  return best_;
}

// ---- what a text asks for ---------------------------------------------------------------------
function parse(text) {
  const t = text.trim().toLowerCase().replace(/^(a|an|the) /, "");
  if (!t) return null;
  const find = (w) => at.get(w) ?? at.get(w.replace(/s$/, "")) ?? at.get(w.replace(/es$/, ""));
  const whole = find(t);
  if (whole != null) return { text: t, ids: [whole] };
  const parts = t.split(/[\s,+]+/), ids = [], left = [];
  for (let i = 0; i < parts.length; i++) {
    const two = i + 1 < parts.length ? find(parts[i] + " " + parts[i + 1]) : null;
    if (two != null) { ids.push(two); i++; continue; }
    const one = find(parts[i]); one == null ? (/^(a|an|the|of|in|on|with|and|at|to)$/.test(parts[i]) || left.push(parts[i])) : ids.push(one);
  }
  return { text: t, ids, left };
}
const called = (text) => { const t = text.split(/\s+/).map((w) => w.replace(/s$/, "")); return (i) => t.every((w) => paths[i].has(w)); };

// ---- completion -------------------------------------------------------------------------------
const box = $("#q"), list = $("#list");
let options = [], active = -1;
function complete() {
  const t = box.value.trim().toLowerCase();
  list.textContent = ""; options = []; active = -1;
  if (!t) return close();
  const starts = [], inside = [];
  for (let i = 0; i < nw && starts.length < 6; i++) if (lower[i].startsWith(t) && !M.quiet.has(i)) starts.push(i);
  if (starts.length < 4) for (let i = 0; i < nw && inside.length < 4; i++) if (lower[i].includes(" " + t) && !M.quiet.has(i)) inside.push(i);
  const exact = at.get(t), first = [...(exact != null && exact < nw && !starts.includes(exact) ? [exact] : []), ...starts, ...inside].slice(0, 6);
  if (exact != null && exact < nw) first.sort((a, b) => (b === exact) - (a === exact));
  const asked = parse(t), lead = asked && asked.ids.length && !(asked.left || []).length ? asked.ids : first.filter((i) => !words[i].includes(" ")).concat(first).slice(0, 1);
  const mean = lead.length ? alike(textOf(lead), 5, new Set(first)) : [];
  const add = (i, t_) => {
    const li = el("li"); li.role = "option"; li.id = "o" + options.length; li.setAttribute("aria-selected", "false");
    const w = el("span"), word = words[i], k = t_ ? word.toLowerCase().indexOf(t_) : -1;
    if (k >= 0) w.append(word.slice(0, k), el("mark", "", word.slice(k, k + t_.length)), word.slice(k + t_.length)); else w.textContent = word;
    const c = M.classes[near[i]], far = nearness[i] / 255 < M.far, note = el("small", far ? "far" : "", far ? "no class near it" : c.toLowerCase() === word.toLowerCase() ? "a class of the head" : "near " + c);
    li.append(w, note); li.addEventListener("pointerdown", (e) => { e.preventDefault(); choose(word); });
    list.append(li); options.push(word);
  };
  first.forEach((i) => add(i, t));
  if (mean.length) { const p = el("li", "part", "Near in meaning"); p.role = "presentation"; list.append(p); mean.forEach((i) => add(i, "")); }
  options.length ? open() : close();
}
function open() { list.hidden = false; box.setAttribute("aria-expanded", "true"); box.removeAttribute("aria-activedescendant"); }
function close() { list.hidden = true; box.setAttribute("aria-expanded", "false"); box.removeAttribute("aria-activedescendant"); active = -1; }
function move(by) {
  if (list.hidden) { complete(); if (list.hidden) return; }
  const all = [...list.querySelectorAll("[role=option]")];
  if (active >= 0) all[active].setAttribute("aria-selected", "false");
  active = (active + by + all.length + (active < 0 && by < 0 ? 1 : 0)) % all.length;
  all[active].setAttribute("aria-selected", "true"); all[active].scrollIntoView({ block: "nearest" });
  box.setAttribute("aria-activedescendant", all[active].id);
}
function choose(text) { box.value = text; close(); ask(text); }

// ---- drawing the answer -----------------------------------------------------------------------
let state = { text: "", by: "all" }, asked = 0;
function tile(i, hit, list_) {
  const li = el("li", hit ? "hit" : ""), b = el("button"), p = el("span", "pic"), im = el("img");
  im.src = src(i); im.alt = ""; im.width = im.height = 160; im.decoding = "async"; p.append(im);
  const f = el("span", "file", (hit ? "✓ " : "") + stem(i)); b.append(p, f); b.title = M.files[i];
  if (hit) f.append(el("span", "hidden", ", named so"));
  b.addEventListener("click", () => detail(i, list_)); li.append(b); return li;
}
function grid(ids, is, label, cls = "") { const g = el("ol", "grid " + cls); g.setAttribute("aria-label", label); ids.forEach((i) => g.append(tile(i, is(i), ids))); return g; }
function isFar(q) { return q.ids.length === 1 && q.ids[0] < nw && nearness[q.ids[0]] / 255 < M.far ? [words[q.ids[0]], M.classes[near[q.ids[0]]]] : null; }
async function ask(text, push = true) {
  state.text = text;
  const q = parse(text || M.example), turn = ++asked;
  document.body.className = state.by === "all" ? "" : state.by;
  $(".clear").hidden = !box.value;
  document.querySelectorAll(".chip").forEach((c) => c.setAttribute("aria-pressed", String(c.textContent === (text || M.example))));
  if (push) { const h = text || state.by !== "all" ? "#" + new URLSearchParams({ q: text, by: state.by }) : "#"; if (location.hash !== h) history.replaceState(null, "", h); }
  if (!q) return;
  const known = q.ids.length === 1 && !(q.left || []).length;
  if (known || !M.serve) return draw(q, !text, q.ids.length ? answers(q) : null, isFar(q));
  const got = await fetch("/ask?" + new URLSearchParams({ q: text.slice(0, 200) })).then((r) => r.ok ? r.json() : null, () => null);
  if (turn !== asked) return;
  if (!got) { $("#answer").replaceChildren(el("p", "note", "No answer: headstock search --serve has ended, or refused this text. Start it again in the terminal.")); return; }
  draw({ text: q.text, ids: [] }, !text, got.pictures, got.far ? [text, got.near] : null);
}
function draw(q, example, lists, far) {
  const out = $("#answer"); out.textContent = "";
  if (!lists) return nothing(out, q);
  const is0 = called(q.text), total = M.files.reduce((a, _, i) => a + is0(i), 0), is = total ? is0 : () => false, first = Math.min(8, n);
  const title = el("div", "said"), h = el("h2"); title.append(h);
  h.append(example ? "A good example: “" + q.text + "”" : "“" + q.text + "”");
  if (state.by !== "all") { h.append(" "); h.append(el("span", "", BY[state.by])); }
  out.append(title);
  if (q.ids.length > 1 || (q.left || []).length) { const p = el("p", "note"); p.append("Put together from ", el("b", "", q.ids.map((i) => words[i]).join(" + ")), "; " + (q.left.length ? "“" + q.left.join(" ") + "” is not in this page’s list. " : "the phrase itself is not in this page’s list. ")); out.append(p); }
  else if (far) { const p = el("p", "note"); p.append(el("b", "", "ImageNet has nothing near this. "), "Its closest class to “" + far[0] + "” is “" + far[1] + "”. Expect little."); out.append(p); }
  let heard = "";
  if (state.by === "all") {
    const three = el("div", "three"); out.append(three);
    SRC.forEach((by, s) => {
      const r = lists[s].slice(0, 8), c = r.filter(is).length, row = el("section", "row " + by), who = el("div", "who"), h3 = el("h3", "", TITLES[by]);
      h3.id = "who-" + by; row.setAttribute("aria-labelledby", h3.id);
      who.append(h3, el("p", "", DEKS[by])); if (total) { const k_ = el("p", "count", c + " of " + first); k_.append(el("small", "", " right")); who.append(k_); heard += TITLES[by] + ": " + c + " of " + first + ". "; }
      const b = el("button", "pick", "See " + lists[s].length); b.append(el("span", "hidden", ", " + TITLES[by])); b.addEventListener("click", () => { $("#by-" + by).checked = true; state.by = by; if (!state.text) { box.value = M.example; state.text = M.example; } ask(state.text); scrollTo({ top: 0 }); }); who.append(b);
      row.append(who, grid(r, is, "“" + q.text + "” " + BY[by])); three.append(row);
    });
    if (total) title.append(el("p", "", (total === 1 ? "One picture has" : fmt(total) + " pictures have") + " the word in the file or folder name (✓). The search never sees names."));
  } else {
    const r = lists[SRC.indexOf(state.by)], c = r.slice(0, 8).filter(is).length, p = el("p");
    if (total) { p.append(el("b", "", c + " of the first " + first + " right"), " (✓: file or folder called “" + q.text + "”; " + fmt(total) + " in all)"); heard = BY[state.by] + ": " + c + " of " + first + ". "; }
    else p.textContent = M.named ? "No file or folder is called “" + q.text + "”: judge by eye." : "Judge by eye.";
    title.append(p);
    out.append(grid(r.slice(0, 8), is, "First eight, “" + q.text + "” " + BY[state.by], "results"));
    if (r.length > 8) { out.append(el("p", "first", "the next " + (r.length - 8))); out.append(grid(r.slice(8), is, "The next " + (r.length - 8), "results")); }
  }
  $("#live").textContent = "“" + q.text + "”. " + heard;
}
function nothing(out, q) {
  const e = el("div", "empty"), h = el("h2", "", "“" + q.text + "” is not among this page’s " + fmt(nw) + " words"), close_ = words.slice(0, nw).filter((w) => distance(w.toLowerCase(), q.text) <= (q.text.length > 6 ? 2 : 1)).slice(0, 6);
  e.append(h);
  if (close_.length) { const p = el("p", "tries", "Did you mean "); close_.forEach((w) => { const b = el("button", "chip", w); b.addEventListener("click", () => choose(w)); p.append(b); }); e.append(p); }
  e.append(el("p", "", "The page is one file and works from a list. For any words at all, run:"), el("pre", "", "headstock search " + M.folder + " --serve")); out.append(e); $("#live").textContent = h.textContent;
}
function distance(a, b) {
  if (Math.abs(a.length - b.length) > 2) return 9;
  let p = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) { const c = [i]; for (let j = 1; j <= b.length; j++) c[j] = Math.min(p[j] + 1, c[j - 1] + 1, p[j - 1] + (a[i - 1] !== b[j - 1])); p = c; }
  return p[b.length];
}

// ---- one picture ------------------------------------------------------------------------------
const sheet = $("#one"); let row = [], place = 0, back = null;
function detail(i, list_) {
  row = list_; place = list_.indexOf(i); if (!sheet.open) back = document.activeElement;
  const is = (w) => M.named && called(w.toLowerCase())(i), box_ = $(".body", sheet); box_.textContent = "";
  $("#one-title").textContent = stem(i); $(".where", sheet).textContent = M.named ? M.files[i] : "";
  const one = el("div", "one"), p = el("span", "pic"), im = el("img"); im.src = src(i); im.alt = "Picture " + stem(i); p.append(im);
  const cols = el("div", "names");
  SRC.forEach((by, s) => {
    const c = el("section", by), h = el("h3", "", TITLES[by]), ol = el("ol"); c.append(h, ol);
    for (let k = 0; k < M.best; k++) {
      const o = i * M.best + k, w = words[best[s][o]], score = bestScore[s][o], li = el("li", is(w) ? "yes" : ""), b = el("button"); b.append(el("strong", "", ""), el("span", "", (score / 255).toFixed(2))); b.firstChild.replaceWith((is(w) ? "✓ " : "") + w);
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), r = document.createElementNS("http://www.w3.org/2000/svg", "rect"); svg.setAttribute("aria-hidden", "true"); svg.setAttribute("preserveAspectRatio", "none"); svg.setAttribute("viewBox", "0 0 100 3"); r.setAttribute("width", String(Math.min(100, score / 2.55))); r.setAttribute("height", "3"); svg.append(r); b.append(svg);
      b.title = "Search “" + w + "”"; b.addEventListener("click", () => { sheet.close(); choose(w); scrollTo({ top: 0 }); }); li.append(b); ol.append(li);
    }
    cols.append(c);
  });
  one.append(p, cols); box_.append(one);
  const near8 = Array.from(like.subarray(i * M.like, (i + 1) * M.like)), sec = el("section", "like"); sec.append(el("h3", "", "Pictures like it"), el("p", "", "By the image encoder alone. No words, so the switch does not matter."), grid(near8, () => false, "Pictures like it")); box_.append(sec);
  if (!sheet.open) sheet.showModal(); sheet.scrollTop = 0;
}
const step = (by) => { place = (place + by + row.length) % row.length; detail(row[place], row); };
$("#prev").addEventListener("click", () => step(-1)); $("#next").addEventListener("click", () => step(1)); $("#shut").addEventListener("click", () => sheet.close());
sheet.addEventListener("click", (e) => { if (e.target === sheet) sheet.close(); });
sheet.addEventListener("close", () => { if (back && back.isConnected) back.focus(); else box.focus(); });
sheet.addEventListener("keydown", (e) => { if (e.key === "ArrowLeft") step(-1); else if (e.key === "ArrowRight") step(1); });

// ---- wiring -----------------------------------------------------------------------------------
let wait = 0;
box.addEventListener("input", () => { complete(); clearTimeout(wait); wait = setTimeout(() => { const q = parse(box.value); if (!box.value.trim() || (q && q.ids.length && !(q.left || []).length)) ask(box.value.trim()); $(".clear").hidden = !box.value; }, 40); });
box.addEventListener("keydown", (e) => {
  if (e.key === "ArrowDown" || e.key === "ArrowUp") { e.preventDefault(); move(e.key === "ArrowDown" ? 1 : -1); }
  else if (e.key === "Enter") { e.preventDefault(); choose(active >= 0 ? options[active] : box.value.trim()); }
  else if (e.key === "Escape") { if (!list.hidden) close(); else { box.value = ""; ask(""); } }
});
box.addEventListener("blur", () => close());
$(".clear").addEventListener("click", () => { box.value = ""; ask(""); box.focus(); });
document.querySelectorAll("[name=by]").forEach((r) => r.addEventListener("change", () => { state.by = r.value; if (r.value !== "all" && !state.text) { box.value = M.example; state.text = M.example; } ask(state.text); }));
document.addEventListener("keydown", (e) => {
  if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === "k") { e.preventDefault(); box.focus(); box.select(); return; }
  const b = document.activeElement, g = b && b.closest(".grid"); if (!g || !/^Arrow/.test(e.key) || sheet.open && /Left|Right/.test(e.key)) return;
  const all = [...g.querySelectorAll("button")], cols = getComputedStyle(g).gridTemplateColumns.split(" ").length, to = all.indexOf(b) + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -cols, ArrowDown: cols }[e.key];
  if (all[to]) { e.preventDefault(); all[to].focus(); }
});
const tries = $(".tries"); M.tries.forEach((w) => { const b = el("button", "chip", w); b.addEventListener("click", () => choose(w)); tries.append(b); });
function fromHash() { const h = new URLSearchParams(location.hash.slice(1)), by = h.get("by"); if (SRC.includes(by) || by === "all") { state.by = by; $("#by-" + by).checked = true; } box.value = h.get("q") || ""; ask(box.value, false); }
addEventListener("hashchange", fromHash); fromHash();
document.documentElement.dataset.ready = String(Math.round(performance.now()));
