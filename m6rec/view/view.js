// Views that can be touched: `mount` draws a spec (see m6rec/view/page.py) into an element; anywidget calls `render`,
// a page finds its figures by itself. No other file, no request, no eval. What comes from data is text, never markup.

const GLYPHS = { start: "■", profile: "◆", history: "●", request: "▲", target: "★" };
const OTHERS = ["○", "◇", "△", "□", "☆"];
const STEPS = { // matplotlib's cividis and PuOr, eleven colours each
  plain: "00224e08337035456c4f576c6669707d7c78948e77aea371c8b866e5cf52fee838",
  signed: "2d004b5326878073acb1aad1d8daebf6f6f7fee0b6fcb761e08214b257067f3b08",
};
const LIGHT = { bg: "#ffffff", fg: "#1b1b1b", mute: "#595959", edge: "#cfcfcf", mark: "#dcebf5", line: "#006ba4", hot: "#b34700", absent: "#e0e0e0", more: "#b35806", less: "#542788", dark: false };
const DARK = { bg: "#1b1d21", fg: "#ececec", mute: "#b4b4b4", edge: "#4a4d52", mark: "#24405a", line: "#6fb4e8", hot: "#ffa552", absent: "#3a3d42", more: "#fdb863", less: "#b2abd2", dark: true };
const BARS = ["#595959", "#a2c8ec", "#006ba4", "#ff800e", "#c85200", "#898989", "#ffbc79"]; // of the glyphs, then of others
const FEW = 12; // columns whose cells have room for numbers, on a linear scale
const FONT = "system-ui, 'DejaVu Sans', sans-serif";
const CSS = `
:host { display: block; container-type: inline-size }
.v { background: var(--bg); color: var(--fg); font: 13px/1.4 ${FONT}; padding: 8px; box-sizing: border-box; max-width: 1600px; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
.v * { box-sizing: border-box } button, input { font: inherit } [hidden] { display: none !important }
.title { font-weight: 600; margin-bottom: 6px }
.controls { display: flex; flex-wrap: wrap; gap: 6px 16px; align-items: center; margin-bottom: 8px }
fieldset { border: 0; margin: 0; padding: 0; display: flex; flex-wrap: wrap }
fieldset label { position: relative } fieldset input { position: absolute; opacity: 0; inset: 0; margin: 0; width: 100%; height: 100%; cursor: pointer }
fieldset span, button { display: inline-block; border: 1px solid var(--mute); padding: 3px 10px; margin: 0 -1px 2px 0; background: var(--bg); color: var(--fg); cursor: pointer }
fieldset input:checked + span, button[aria-pressed=true] { background: var(--line); color: var(--bg); border-color: var(--line) }
:focus-visible, fieldset input:focus-visible + span { outline: 3px solid var(--hot); outline-offset: 1px }
.range { display: inline-flex; align-items: center; gap: 6px } .range input { width: 130px; accent-color: var(--line) }
.range output { min-width: 3.5em; max-width: 16em }
.text input { background: var(--bg); color: var(--fg); border: 1px solid var(--mute); padding: 3px 6px; width: 14em; max-width: 60cqw }
.toggles { flex-basis: 100%; display: flex; flex-wrap: wrap; gap: 4px; max-height: 9em; overflow: auto; padding: 3px } .toggles button { max-width: 24em; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.stage { display: grid; align-items: start; width: 100%; contain: layout paint } .stage > * { min-width: 0 }
ul { list-style: none; margin: 0; padding: 0; border-radius: 3px }
li { display: flex; align-items: center; gap: 4px; padding: 0 4px; overflow: hidden; white-space: nowrap; cursor: pointer }
li .t { overflow: hidden; text-overflow: ellipsis; flex: 1 1 auto; unicode-bidi: isolate } li .g { color: var(--mute); width: 1.1em; flex: none; text-align: center }
li .n { flex: none; font-size: .92em } li.bold .t { font-weight: 700 }
li.on { background: var(--mark) } li.pin { box-shadow: inset 3px 0 var(--hot) }
.head { font-size: 12px; color: var(--mute); padding: 0 4px; display: flex; align-items: end }
canvas { display: block; cursor: crosshair } .both { position: relative } .both canvas:first-child { position: absolute; opacity: .3; will-change: opacity }  .both canvas { will-change: transform } .both img { position: absolute; image-rendering: pixelated }
.over { display: flex; flex-wrap: wrap; gap: 8px }
.read { min-height: 2.8em; margin: 8px 0 4px }
.legend, .note { margin: 2px 0; color: var(--mute); font-size: 12px }
.legend span { margin-right: 12px } .legend span:has(i) { white-space: nowrap } .legend i { font-style: normal; color: var(--fg) }
.bar { display: inline-block; width: 90px; height: 9px; margin: 0 5px; vertical-align: middle }
.err { color: var(--hot); margin: 4px 0; font-weight: 600 }
details { font-size: 12px } .wide { overflow: auto; max-height: 24em } table { border-collapse: collapse }
th, td { padding: 1px 6px; text-align: right; border-bottom: 1px solid var(--edge); font-weight: 400; max-width: 16em; overflow: hidden; text-overflow: ellipsis; white-space: nowrap } th[scope=row] { text-align: left }
@media print { .controls, details { display: none } }
`;

const hex = (s) => s.match(/.{6}/g).map((c) => [0, 2, 4].map((i) => parseInt(c.slice(i, i + 2), 16)));
const MAPS = Object.fromEntries(Object.entries(STEPS).map(([k, s]) => [k, hex(s)]));
function shade(t, map) { // 0..1 -> [r, g, b]
  const x = Math.min(1, Math.max(0, t)) * 10, i = Math.min(9, Math.floor(x)), [a, b] = [MAPS[map][i], MAPS[map][i + 1]];
  return a.map((c, k) => Math.round(c + (b[k] - c) * (x - i)));
}
const tint = (share, signed, root) => shade(signed ? 0.5 + share / 2 : root ? Math.sqrt(share) : share, signed ? "signed" : "plain");
const css = ([r, g, b]) => `rgb(${r},${g},${b})`;
const bright = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b > 140;
const num = (x) => (Number.isNaN(x) ? "–" : Math.abs(x) >= 100 ? x.toFixed(0) : Math.abs(x) >= 10 ? x.toFixed(1) : x.toFixed(2).replace("-0.00", "0.00"));
const short = (top) => (x) => (!x ? "0" : top >= 0.2 || Number.isNaN(x) ? num(x) : x.toFixed(top >= 0.02 ? 3 : 4));
const fine = (x) => (Number.isNaN(x) ? "not computed" : !x ? "0" : Math.abs(x) < 0.01 ? x.toPrecision(2) : x.toFixed(3));
const clip = (s, n) => { const c = [...s]; return c.length > n ? c.slice(0, n - 1).join("") + "…" : s; };
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null && value !== false) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
function decode(text, top, signed) { // 8 bits by the square root, 255: not computed
  const table = Float32Array.from({ length: 256 }, (_, q) => (signed ? Math.sign(q - 127) * top * ((q - 127) / 127) ** 2 : top * (q / 254) ** 2));
  table[255] = NaN;
  return Float32Array.from(atob(text), (c) => table[c.charCodeAt(0)]);
}
function follow(node, call) { // the pointer, once a frame
  let last = null;
  node.addEventListener("pointermove", ({ offsetX, offsetY, target }) => {
    if (!last) requestAnimationFrame(() => { call(last); last = null; });
    last = { offsetX, offsetY, target };
  });
}
const largest = (values, skip) => values.reduce((a, v, j) => Math.max(a, j === skip ? 0 : Math.abs(v) || 0), 1e-9);
const total = (values) => values.reduce((a, b) => a + b, 0);
function softmax(values) {
  const top = values.reduce((a, b) => Math.max(a, b)), powers = values.map((v) => Math.exp(v - top)), sum = total(powers);
  return powers.map((v) => v / sum);
}
const strongest = (row, names, count = 5) => [...row.keys()].filter((j) => Math.abs(row[j]) > 1e-5)
  .sort((a, b) => Math.abs(row[b]) - Math.abs(row[a])).slice(0, count).map((j) => `${names[j]} ${fine(row[j])}`).join(", ") || "nothing";
function isDark() {
  const lab = document.body?.getAttribute("data-jp-theme-light");
  return lab ? lab === "false" : PREFERS.matches;
}
const heading = (text) => make("div", { class: "head" }, text);
let count = 0;
const PREFERS = matchMedia("(prefers-color-scheme: dark)");

// A list of labels whose rows stand beside the canvas: one tab stop, arrows move within.
function rows(view, name, labels, glyphs, height, on) {
  const ul = make("ul", { role: "listbox", tabindex: 0, "aria-label": name }), id = `m6rec-${++count}-`;
  const small = height < 15 ? 10 : height < 18 ? 11 : 13;
  const items = labels.map((label, i) => {
    const number = make("span", { class: "n" }), text = make("span", { class: "t", dir: "auto", title: label }, label);
    const glyph = glyphs ? [make("span", { class: "g", "aria-hidden": "true" }, glyphs[i])] : [];
    const li = make("li", { role: "option", id: id + i, "aria-selected": "false", "aria-label": label }, ...glyph, text, number);
    li.style.height = `${height}px`; li.style.fontSize = `${small}px`;
    li.addEventListener("pointerenter", () => on.hover(i));
    li.addEventListener("click", () => on.pin(i));
    ul.append(li);
    return { li, number };
  });
  ul.addEventListener("pointerleave", () => on.leave());
  let at = Math.max(0, on.first ?? 0), was = [];
  ul.addEventListener("focus", () => ul.matches(":focus-visible") && on.hover(at));
  ul.addEventListener("blur", () => on.leave());
  ul.addEventListener("keydown", (event) => {
    const last = items.length - 1;
    const to = { ArrowDown: Math.min(last, at + 1), ArrowUp: Math.max(0, at - 1), Home: 0, End: last }[event.key];
    if (to !== undefined) { at = to; on.hover(at); }
    else if (event.key === "Enter" || event.key === " ") on.pin(at);
    else if (event.key === "Escape") on.pin(-1);
    else if (!on.key?.(event.key)) return;
    event.preventDefault(); event.stopPropagation();
  });
  return {
    ul,
    mark(active, pinned) {
      for (const i of new Set([...was, active, pinned])) { // only what changes: sixty rows a frame are slow
        if (!items[i]) continue;
        const { li } = items[i];
        li.classList.toggle("on", i === active); li.classList.toggle("pin", i === pinned);
        li.setAttribute("aria-selected", i === pinned ? "true" : "false");
      }
      was = [active, pinned];
      if (active >= 0) { at = active; ul.setAttribute("aria-activedescendant", id + active); }
    },
    numbers(texts, said, paint) {
      items.forEach((item, i) => {
        const { li, number } = item;
        const text = texts ? texts[i] : "", colour = texts && paint ? paint[i] : "";
        if ((item.text ?? "") !== text) number.textContent = item.text = text;
        if (said && item.said !== said[i]) li.setAttribute("aria-label", item.said = said[i]);
        if ((item.ink ?? "") !== colour) li.style.background = item.ink = colour;
      });
    },
    bold(which) { items.forEach(({ li }, i) => li.classList.toggle("bold", which[i])); },
  };
}

// A list beside a canvas: paint(i) draws what is pointed at, else what is pinned; -1 is nothing.
function beside(view, node, name, labels, glyphs, height, paint, { pin = -1, find, ...more } = {}) {
  const show = (i) => { paint(i); list.mark(i, pin); };
  const list = rows(view, name, labels, glyphs, height, { hover: show, leave: () => show(pin), pin: (i) => { pin = i === pin ? -1 : i; show(pin); }, first: pin, ...more });
  follow(node, (event) => show(find ? find(event) ?? pin : Math.min(labels.length - 1, Math.floor(event.offsetY / height))));
  node.addEventListener("pointerleave", () => show(pin));
  list.rest = () => show(pin);
  return list;
}
function curve(ctx, x, y, to, z) {
  const half = (x + to) / 2;
  ctx.beginPath(); ctx.moveTo(x, y); ctx.bezierCurveTo(half, y, half, z, to, z); ctx.stroke();
}
function write(ctx, text, x, y, ink, align = "left", baseline = "middle") {
  Object.assign(ctx, { fillStyle: ink, textAlign: align, textBaseline: baseline });
  ctx.fillText(text, x, y);
}
function dot(ctx, x, y, radius) { ctx.beginPath(); ctx.arc(x, y, radius, 0, 7); ctx.fill(); }

class View {
  constructor(host, spec, { values, change, within } = {}) {
    host.view = this; // for the console
    Object.assign(this, { host, change, within, values: { ...spec.values, ...values } });
    host.dataset.lmSuppressShortcuts = "true"; // arrows are ours, not JupyterLab's
    this.root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(CSS);
    this.root.adoptedStyleSheets = [sheet];
    this.title = make("div", { class: "title", dir: "auto", role: "heading", "aria-level": 2 });
    this.controls = make("div", { class: "controls" });
    this.error = make("p", { class: "err", role: "alert", hidden: true });
    this.stage = make("div", { class: "stage" });
    this.read = make("p", { class: "read", role: "status", "aria-live": "polite" });
    this.legend = make("p", { class: "legend" });
    this.note = make("p", { class: "note" });
    this.wide = make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "The numbers" });
    this.details = make("details", {}, make("summary", {}, "The numbers"), this.wide);
    this.details.addEventListener("toggle", () => this.tabulate());
    this.body = make("div", { class: "v", role: "group" }, this.title, this.controls, this.error, this.stage, this.read, this.legend, this.note, this.details);
    this.body.addEventListener("keydown", (event) => event.stopPropagation()); // a notebook in edit mode takes the focus
    this.root.replaceChildren(this.body);
    this.off = new AbortController();
    PREFERS.addEventListener("change", () => this.restyle(), { signal: this.off.signal });
    this.watch = new MutationObserver(() => this.restyle());
    if (document.body) this.watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    this.sizes = new ResizeObserver(() => this.fit());
    this.update(spec);
    this.sizes.observe(this.stage);
  }
  remove() { this.off.abort(); this.watch.disconnect(); this.sizes.disconnect(); this.kind.remove?.(); }
  fit() { if (Math.abs(this.width() - this.drawn) > 1) this.layout(); }
  restyle() {
    this.layout();
    setTimeout(() => this.fit(), 300); // hidden while a theme loads
  }
  width() { return this.within ? this.within.drawn - 16 : Math.max(240, Math.min(1584, this.stage.clientWidth || this.host.clientWidth - 16 || 640)); }
  update(spec) {
    this.spec = spec;
    this.kind = KINDS[spec.kind](this);
    this.title.textContent = spec.title;
    this.body.setAttribute("aria-label", spec.title);
    this.note.textContent = spec.note ?? "";
    this.all = this.kind.controls ?? spec.controls ?? [];
    if (this.controls.dataset.of !== JSON.stringify(this.all)) this.control(this.all);
    this.fail("");
    this.layout();
  }
  set(values) { // from Python
    if (JSON.stringify(values) === JSON.stringify(this.values)) return;
    this.values = { ...values };
    this.show();
    if (this.kind.local) this.layout();
  }
  fail(text) { this.error.textContent = text; this.error.hidden = !text; }
  move(name, value) { // by a person
    this.values = { ...this.values, [name]: value };
    this.show();
    if (this.kind.local) this.layout();
    this.change?.(this.values);
  }
  step(name, by) {
    const control = this.all.find((c) => c.name === name);
    if (!control || this.controls.hidden) return false;
    const to = Math.min(control.options.length - 1, Math.max(0, (this.values[name] ?? 0) + by));
    if (to !== this.values[name]) this.move(name, to);
    return true;
  }
  control(list) {
    Object.assign(this, { shows: [], inputs: {} });
    this.controls.dataset.of = JSON.stringify(list);
    this.controls.replaceChildren();
    const still = !this.kind.local && !this.change; // what a kernel must compute
    this.controls.hidden = still;
    if (still) return;
    const toggles = make("div", { class: "toggles", role: "group", "aria-label": this.kind.toggles ?? "left out" });
    for (const { name, label, kind, options, among } of list) {
      if (kind === "choice") {
        const box = make("fieldset", { "aria-label": label }), group = `m6rec-${++count}`;
        const inputs = options.map((option, i) => {
          const input = make("input", { type: "radio", name: group });
          input.addEventListener("change", () => this.move(name, i));
          box.append(make("label", {}, input, make("span", {}, option)));
          return input;
        });
        this.shows.push(() => { inputs.forEach((input, i) => { input.checked = i === (this.values[name] ?? 0); }); });
        this.controls.append(box);
      } else if (kind === "range") {
        const input = make("input", { type: "range", min: 0, max: options.length - 1, step: 1, "aria-label": label });
        const said = make("output", { dir: "auto" });
        this.inputs[name] = input;
        const say = () => { said.textContent = options[input.value]; input.setAttribute("aria-valuetext", options[input.value]); };
        input.addEventListener("input", () => { say(); if (this.kind.local) this.move(name, +input.value); });
        input.addEventListener("change", () => { if (+input.value !== this.values[name]) this.move(name, +input.value); });
        this.shows.push(() => { input.value = this.values[name] ?? 0; say(); });
        this.controls.append(make("label", { class: "range" }, label, input, said));
      } else if (kind === "toggle") {
        const button = make("button", { type: "button", dir: "auto", title: label }, label);
        button.addEventListener("click", () => this.move(name, !this.values[name]));
        this.shows.push(() => button.setAttribute("aria-pressed", this.values[name] ? "true" : "false"));
        toggles.append(button);
      } else {
        const input = make("input", { type: "text", placeholder: options[0], dir: "auto" });
        const take = () => { if (input.value !== this.values[name]) this.move(name, input.value); };
        input.addEventListener("change", take);
        input.addEventListener("keydown", (event) => { if (event.key === "Enter") take(); });
        this.shows.push(() => { input.value = this.values[name]; });
        const ideas = make("datalist", { id: `m6rec-${++count}` });
        input.setAttribute("list", ideas.id);
        input.addEventListener("input", () => {
          const typed = input.value.trim().toLowerCase(), near = typed.length < 2 ? [] : (among ?? []).filter((t) => t.toLowerCase().includes(typed));
          ideas.replaceChildren(...near.slice(0, 12).map((value) => make("option", { value })));
        });
        this.controls.append(make("label", { class: "text" }, `${label} `, input), ideas);
      }
    }
    for (const input of this.controls.querySelectorAll("input")) input.dataset.lmSuppressShortcuts = "true";
    if (toggles.firstChild) this.controls.append(toggles);
    if (this.kind.toggles) toggles.prepend(heading(this.kind.toggles));
    this.show();
  }
  show() { for (const one of this.shows ?? []) one(); }
  layout() { // everything below the controls, for this width and theme
    this.theme = isDark() ? DARK : LIGHT;
    for (const [name, value] of Object.entries(this.theme)) this.host.style.setProperty(`--${name}`, value);
    this.host.style.colorScheme = this.theme.dark ? "dark" : "light";
    this.drawn = this.width();
    const focus = [...this.stage.querySelectorAll("ul")].indexOf(this.root.activeElement);
    this.read.textContent = "";
    this.legend.replaceChildren();
    if (!this.kind.lasting) this.stage.replaceChildren();
    this.kind.draw();
    for (const [name, input] of Object.entries(this.inputs ?? {})) input.disabled = !!this.kind.idle?.(name);
    if (focus >= 0) this.stage.querySelectorAll("ul")[focus]?.focus();
    this.tabulate();
    this.host.dataset.version = +(this.host.dataset.version ?? 0) + 1;
  }
  tabulate() {
    if (!this.details.open) { this.wide.replaceChildren(); return; }
    const { columns, rows: lines } = this.kind.table();
    const head = make("tr", {}, make("td"), ...columns.slice(0, 30).map((c) => make("th", { scope: "col", title: c }, c)));
    const body = lines.slice(0, 60).map(([name, ...cells]) =>
      make("tr", {}, make("th", { scope: "row", title: name }, name), ...cells.slice(0, 30).map((c) => make("td", {}, typeof c === "number" ? fine(c) : c))));
    this.wide.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }
  canvas(width, height, label) {
    const ratio = devicePixelRatio || 1, node = make("canvas", label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" });
    node.width = Math.round(width * ratio); node.height = Math.round(height * ratio);
    node.style.width = `${width}px`; node.style.height = `${height}px`;
    const ctx = node.getContext("2d");
    ctx.scale(ratio, ratio);
    ctx.font = `11px ${FONT}`;
    return { node, ctx, clear: () => ctx.clearRect(0, 0, width, height) };
  }
  split(share, most, widest, sides = 1) { // widths of lists beside a canvas, and of the canvas
    const side = Math.round(Math.min(this.drawn * share, most));
    return [side, Math.min(this.drawn - sides * side - 8, widest)];
  }
  place(widths, ...nodes) {
    this.stage.style.gridTemplateColumns = widths.map((w) => `${w}px`).join(" ");
    this.stage.append(...nodes);
  }
  scale(top, signed, root, unit = "") {
    const high = short(top)(top), bar = make("span", { class: "bar" });
    bar.style.background = `linear-gradient(90deg, ${[0, 1, 2, 3, 4].map((i) => css(shade(i / 4, signed ? "signed" : "plain"))).join(", ")})`;
    this.legend.append(make("span", {}, signed ? `−${high}` : "0", bar, high + unit + (root && !signed ? " (square-root scale)" : "")));
  }
  say(...texts) { this.legend.append(...texts.map((text) => make("span", {}, text))); }
  types(types, colours) {
    [...new Set(types)].forEach((type, k) => {
      const box = make("span", {}, make("i", { "aria-hidden": "true" }, glyph(type, types)), ` ${type}`);
      if (colours) box.style.borderBottom = `3px solid ${colours[k]}`;
      this.legend.append(box);
    });
  }
}
const glyph = (type, types) => GLYPHS[type] ?? OTHERS[[...new Set(types)].filter((t) => !(t in GLYPHS)).indexOf(type) % 5];
const tall = (n) => Math.max(13, Math.min(22, Math.floor(620 / n)));

// Rows × columns of numbers: hover or walk through the cells.
function cells(view, { rowNames, rowTypes, columnNames, columnTypes, values, signed, folded = -1, skip = 0, what, unit = "", on = {} }) {
  const [R, C] = [rowNames.length, columnNames.length], height = tall(R), few = C <= FEW;
  const pad = Math.min(56, view.drawn * 0.1), [left, room] = view.split(0.36, 240, 1600), cell = Math.min(few ? 64 : 28, (room - pad) / C), header = 92;
  const row = (i) => values.subarray(i * C, (i + 1) * C), top = Math.max(...rowNames.map((_, i) => (i < skip ? 0 : largest(row(i), folded))));
  const said = rowNames.map((name, i) => `${name}: ${strongest(row(i), columnNames, 3)}`);
  const [width, whole] = [cell * C + pad, header + R * height], base = view.canvas(width, whole);
  const { node, ctx, clear } = view.canvas(width, whole, `${what} ${said[R - 1]}.`);
  const t = view.theme, every = Math.max(1, Math.ceil(12 / cell));
  let state = { row: -1, column: -1, pin: -1 };
  const g = base.ctx, cut = (types, size, line) => types?.forEach((type, k) => { if (k && type !== types[k - 1]) { g.beginPath(); line(k * size); g.stroke(); } });
  for (let i = 0; i < R; i++) for (let j = 0; j < C; j++) {
    const v = values[i * C + j], c = Number.isNaN(v) ? null : tint(v / top, signed, !few);
    g.fillStyle = c ? css(c) : t.absent;
    g.fillRect(j * cell, header + i * height, cell + 0.5, height + 0.5);
    if (c && few && cell >= 30) write(g, short(top)(v), (j + 0.5) * cell, header + (i + 0.5) * height, bright(c) ? "#000" : "#fff", "center");
  }
  g.strokeStyle = t.bg; g.lineWidth = Math.min(cell, height) < 8 ? 1 : 2;
  cut(columnTypes, cell, (x) => { g.moveTo(x, header); g.lineTo(x, whole); });
  cut(rowTypes, height, (y) => { g.moveTo(0, header + y); g.lineTo(C * cell, header + y); });
  const paint = () => {
    const { row: i, column } = state, y = header + i * height;
    clear();
    ctx.drawImage(base.node, 0, 0, width, whole);
    for (let j = 0; j < C; j++) { // their names
      const near = column >= 0 && Math.abs(j - column) * cell < 12;
      if (j !== column && (j % every || near)) continue;
      ctx.save(); ctx.translate((j + 0.5) * cell, header - 4); ctx.rotate(-Math.PI / 3);
      write(ctx, clip(columnNames[j], j === column ? 18 : 15), 0, 0, j === column ? t.hot : t.fg); ctx.restore();
    }
    ctx.strokeStyle = t.hot; ctx.lineWidth = 2;
    if (i >= 0) ctx.strokeRect(0.5, y + 0.5, C * cell - 1, height - 1);
    if (i >= 0 && column >= 0) ctx.strokeRect(column * cell, y, Math.max(2, cell), height);
    list.mark(i, state.pin);
    view.read.textContent = i < 0 ? on.idle ?? "" : Number.isNaN(values[i * C]) ? `${rowNames[i]}: not computed in this layer.`
      : (column >= 0 ? `${rowNames[i]} → ${columnNames[column]}: ${fine(values[i * C + column])}${unit}. ` : "") + `${on.most?.(rowNames[i]) ?? `Largest of ${rowNames[i]}`}: ${strongest(row(i), columnNames)}${unit}.`;
  };
  const go = (change) => { state = { ...state, ...change }; paint(); }, rest = () => go({ row: state.pin, column: -1 });
  const list = rows(view, "rows", rowNames, rowTypes?.map((type) => glyph(type, rowTypes)), height, {
    first: R - 1, hover: (i) => go({ row: i }), leave: rest,
    pin: (i) => { const pin = i === state.pin ? -1 : i; go({ pin, row: pin }); },
    key: (key) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (on.key?.(key)) return true;
      if (step) go({ row: Math.max(0, state.row), column: Math.min(C - 1, Math.max(0, state.column + step)) });
      return step;
    },
  });
  const find = (event) => {
    const i = Math.floor((event.offsetY - header) / height), j = Math.floor(event.offsetX / cell);
    return i >= 0 && i < R && j >= 0 && j < C ? { row: i, column: j } : { row: state.pin, column: -1 };
  };
  follow(node, (event) => go(find(event)));
  node.addEventListener("pointerleave", rest);
  node.addEventListener("click", (event) => { const { row: i } = find(event); go({ pin: i === state.pin ? -1 : i }); });
  const corner = heading(on.corner ?? "");
  corner.style.height = `${header}px`;
  view.place([left, width], make("div", {}, corner, list.ul), node);
  list.numbers(null, said);
  view.scale(top, signed, !few, unit);
  paint();
}

// The request path of m6rec/model/network.py (ContextFusion over Blocks, then the dense head), on typed arrays.
function recommender({ floats, parts, heads, recency }) {
  const all = new Float32Array(Uint8Array.from(atob(floats), (c) => c.charCodeAt(0)).buffer), w = {};
  let at = 0, known = {};
  for (const [name, size] of parts) w[name] = all.subarray(at, (at += size));
  const D = w.start.length, d = D / heads, L = parts.filter(([name]) => name.endsWith(".q.weight")).length, root = Math.sqrt(d);
  const sigmoid = (v) => 1 / (1 + Math.exp(-v));
  const gelu = (v) => { // erf to 1.5e-7: Abramowitz & Stegun 7.1.26
    const x = Math.abs(v) / Math.SQRT2, t = 1 / (1 + 0.3275911 * x);
    const rest = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * Math.exp(-x * x);
    return 0.5 * v * (1 + Math.sign(v) * (1 - rest));
  };
  const row = (name, code) => w[`${name}.weight`].subarray(code * D, (code + 1) * D);
  const add = (...vectors) => vectors[0].map((_, i) => vectors.reduce((sum, v) => sum + v[i], 0));
  const join = (vectors) => Float32Array.from(vectors.flatMap((v) => [...v])); // -> (n, D)
  const linear = (x, name, from = D) => { // (n, from) -> (n, to)
    const W = w[`${name}.weight`], b = w[`${name}.bias`], to = W.length / from, n = x.length / from, out = new Float32Array(n * to);
    for (let r = 0; r < n; r++) for (let i = 0; i < to; i++) {
      let sum = b ? b[i] : 0;
      for (let j = 0, p = r * from, q = i * from; j < from; j++) sum += x[p + j] * W[q + j];
      out[r * to + i] = sum;
    }
    return out;
  };
  const norm = (x, name) => {
    const out = new Float32Array(x.length), scale = w[`${name}.weight`];
    for (let r = 0; r < x.length; r += D) {
      let sum = 0;
      for (let i = r; i < r + D; i++) sum += x[i] * x[i];
      const by = 1 / Math.sqrt(sum / D + 2 ** -23);
      for (let i = 0; i < D; i++) out[r + i] = x[r + i] * by * scale[i];
    }
    return out;
  };
  const turn = (x, start, position) => { // rotary, one head of one token
    for (let i = start; i < start + d / 2; i++) {
      const angle = position * 1000 ** ((-2 * (i - start)) / d), [cos, sin, a, b] = [Math.cos(angle), Math.sin(angle), x[i], x[i + d / 2]];
      x[i] = a * cos - b * sin; x[i + d / 2] = a * sin + b * cos;
    }
  };
  const turned = (x, positions, step) => { positions.forEach((p, r) => { for (let h = 0; h < heads; h++) turn(x, (r * heads + h) * step, p); }); return x; };
  const keys = (x, layer, positions) => turned(linear(norm(x, `joint.${layer}.norm`), `joint.${layer}.kv`), positions, 2 * d); // (n, H, k then v)
  function block(x, layer, kv, positions, see) { // row r sees the first see(r) keys
    const name = `joint.${layer}`, n = positions.length, m = kv.length / (2 * D), normed = norm(x, `${name}.norm`);
    const q = turned(linear(normed, `${name}.q`), positions, d), joined = new Float32Array(n * D), weights = new Float32Array(heads * n * m);
    for (let h = 0; h < heads; h++) for (let r = 0; r < n; r++) {
      const row = weights.subarray((h * n + r) * m, (h * n + r) * m + see(r)), from = r * D + h * d;
      for (let j = 0; j < row.length; j++) for (let c = 0; c < d; c++) row[j] += (q[from + c] * kv[(j * heads + h) * 2 * d + c]) / root;
      row.set(softmax(row));
      for (let j = 0; j < row.length; j++) for (let c = 0; c < d; c++) joined[from + c] += row[j] * kv[(j * heads + h) * 2 * d + d + c];
    }
    const gated = (x, change, gate) => x.map((v, i) => v + change[i] * sigmoid(gate[i]));
    x = gated(x, linear(joined, `${name}.out`), linear(normed, `${name}.gate`));
    const inner = norm(x, `${name}.ffn_norm`), wide = linear(inner, `${name}.ffn.0`).map(gelu);
    return { x: gated(x, linear(wide, `${name}.ffn.2`, 4 * D), linear(inner, `${name}.ffn_gate`)), weights };
  }
  const present = (part, codes) => codes.flatMap((code, i) => (code ? [row(`${part}.${i}`, code)] : []));
  function read(events, profile) { // the history stream, which sees no request
    const vectors = events.map(([item, value, gap]) => add(row("items", item), row("value", value), row("gap", gap)));
    const first = [w.start, ...present("profile", profile)], positions = [...first, ...vectors].map((_, i) => Math.max(0, i - first.length));
    const caches = [], maps = [];
    let x = join([...first, ...vectors]);
    for (let layer = 0; layer < L; layer++) {
      caches.push(keys(x, layer, positions));
      if (layer < L - 1) { const done = block(x, layer, caches[layer], positions, (r) => Math.max(first.length, r + 1)); x = done.x; maps.push(done.weights); }
    }
    const shares = [w.start, ...vectors].map((_, j) => recency ** (vectors.length - j)), sum = total(shares);
    const recent = add(...[w.start, ...vectors].map((v, j) => v.map((c) => (c * shares[j]) / sum)));
    return { caches, maps, recent, m: positions.length };
  }
  return (events, profile, request) => { // events: [item, value, gap] codes -> logits (N,), weights (L, H, n, n)
    const key = JSON.stringify([events, profile]);
    if (known.key !== key) known = { key, ...read(events, profile) };
    const fields = present("request", request), { caches, maps, recent, m } = known, n = m + fields.length + 1, position = events.length - 1;
    const weights = new Float32Array(L * heads * n * n).fill(NaN);
    let x = add(recent, ...fields);
    for (let layer = 0; layer < L; layer++) {
      const kv = join([caches[layer], keys(join(fields), layer, fields.map(() => position))]);
      const done = block(x, layer, kv, [position], () => n - 1);
      x = done.x;
      for (let h = 0; h < heads; h++) {
        const start = (layer * heads + h) * n * n;
        for (let r = 0; r < m && layer < L - 1; r++) weights.fill(0, start + r * n, start + (r + 1) * n).set(maps[layer].subarray((h * m + r) * m, (h * m + r + 1) * m), start + r * n);
        weights.set(done.weights.subarray(h * (n - 1), (h + 1) * (n - 1)), start + (n - 1) * n);
        weights[start + n * n - 1] = 0;
      }
    }
    const state = norm(x, "norm"), items = w["items.weight"], logits = new Float32Array(items.length / D);
    for (let i = 0; i < logits.length; i++) for (let c = 0; c < D; c++) logits[i] += state[c] * items[i * D + c];
    return { logits, weights, shape: [L, heads, n] };
  };
}

const KINDS = {
  attention(view) {
    const { spec } = view, [L, H, n] = spec.shape, { tokens, types, signed } = spec, all = spec.weights ?? decode(spec.q, spec.top, signed);
    if (spec.sums) for (let k = 0; k < all.length; k += n) { // to 1, as before they were 8 bits
      const row = all.subarray(k, k + n), sum = total(row) || 1;
      row.forEach((v, j) => { row[j] = v / sum; });
    }
    const marks = types.map((type) => glyph(type, types)), known = new Map(), size = n * n;
    const names = spec.views.map(([view]) => view), at = () => ({ view: names[view.values.view ?? 0], layer: view.values.layer ?? 0, head: view.values.head ?? 0 });
    const where = ({ layer, head }) => `${layer ? `layer ${layer}` : "mean of layers"}, ${head ? `head ${head}` : "mean of heads"}`;
    function pick(layer, head) { // (n, n), a mean over what is computed
      const key = `${layer},${head}`;
      if (known.has(key)) return known.get(key);
      const sum = new Float32Array(size), times = new Uint16Array(size);
      for (let a = layer ? layer - 1 : 0; a < (layer || L); a++) for (let h = head ? head - 1 : 0; h < (head || H); h++) {
        const start = (a * H + h) * size;
        for (let k = 0; k < size; k++) { const v = all[start + k]; if (v === v) { sum[k] += v; times[k]++; } }
      }
      for (let k = 0; k < size; k++) sum[k] = times[k] ? sum[k] / times[k] : NaN;
      return known.set(key, sum).get(key);
    }
    const own = [...Array(L * H).keys()].some((k) => Math.abs(all[(k + 1) * size - 1]) > 1e-6); // the target sees itself
    const m = own ? n : n - 1;
    const target = (k) => all.subarray((k + 1) * size - n, (k + 1) * size - n + m);
    const key = (name) => ({ ArrowLeft: () => view.step("head", -1), ArrowRight: () => view.step("head", 1), PageUp: () => view.step("layer", -1), PageDown: () => view.step("layer", 1) }[name]?.());
    const hint = "↑ ↓ tokens, ← → heads, page keys layers, Enter pins, Escape releases.";
    let data, active = { side: "query", i: n - 1 }, pin = null; // tokens: another layer or head keeps them
    const keep = (columns, names, values) => { data = { columns, rows: names.map((name, i) => [name, ...values(i)]) }; };
    function lines() {
      const { layer, head } = at(), A = pick(layer, head), height = tall(n), t = view.theme, [side, middle] = view.split(0.36, 300, 700, 2);
      const row = (i) => A.subarray(i * n, (i + 1) * n), column = (j) => Float32Array.from(tokens, (_, i) => A[i * n + j] || 0);
      const top = Math.max(...tokens.slice(1).map((_, i) => largest(row(i + 1), spec.folded)));
      const said = tokens.map((name, i) => `${name}, ${types[i]}: ${Number.isNaN(A[i * n]) ? "not computed here" : `attends to ${strongest(row(i), tokens, 3)}`}`);
      const { node, ctx, clear } = view.canvas(middle, n * height, `Attention, ${where(at())}. ${said[n - 1]}.`), base = view.canvas(middle, n * height), both = make("div", { class: "both" }, base.node, node);
      const ink = (v) => (signed ? (v < 0 ? t.less : t.more) : t.line);
      const stroke = (g, i, j, wide) => {
        const v = A[i * n + j], strength = Math.min(1, Math.abs(v) / (wide ? most : top));
        if (!(strength > (wide ? 0.02 : 0.15))) return;
        g.globalAlpha = wide ? 0.25 + 0.75 * strength : 0.6 * Math.sqrt(strength);
        g.strokeStyle = ink(v); g.lineWidth = wide ? 0.8 + 4 * strength : 1.2;
        if (signed) g.setLineDash(v < 0 ? [5, 4] : []);
        curve(g, 0, (i + 0.5) * height, middle, (j + 0.5) * height);
      };
      for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) stroke(base.ctx, i, j);
      let most = top;
      const soft = (value) => ink(value) + Math.round(110 * Math.min(1, Math.abs(value) / most)).toString(16).padStart(2, "0");
      const paint = () => {
        const { side, i } = active, query = side === "query", values = query ? row(i) : column(i), none = query && Number.isNaN(A[i * n]);
        most = largest(values, spec.folded);
        clear();
        for (let j = 0; j < n; j++) stroke(ctx, ...(query ? [i, j] : [j, i]), true);
        const texts = [...values].map((v) => (none || Math.abs(v) < Math.min(0.005, top / 20) ? "" : short(top)(v)));
        (query ? right : left).numbers(none ? null : texts, query ? null : said, [...values].map(soft));
        (query ? left : right).numbers(null);
        left.mark(query ? i : -1, pin?.side === "query" ? pin.i : -1);
        right.mark(query ? -1 : i, pin?.side === "key" ? pin.i : -1);
        view.read.textContent = none ? `${tokens[i]}: no layer shown computes what it attends to.`
          : `${tokens[i]} ${query ? "attends" : "is attended to"}${signed ? " more (or, below 0, less)" : query ? " to" : " by"}: ${strongest(values, tokens)}.`;
      };
      const go = (side, i) => { active = { side, i }; paint(); };
      const rest = () => { active = pin ?? { side: "query", i: n - 1 }; paint(); };
      const hold = (side) => (i) => { pin = i < 0 || (pin?.side === side && pin.i === i) ? null : { side, i }; rest(); };
      const left = rows(view, "tokens that attend", tokens, marks, height, { first: active.side === "query" ? active.i : n - 1, hover: (i) => go("query", i), leave: rest, pin: hold("query"), key });
      const right = rows(view, "tokens that are attended to", tokens, marks, height, { first: active.side === "key" ? active.i : 0, hover: (i) => go("key", i), leave: rest, pin: hold("key"), key });
      follow(node, (event) => go(event.offsetX < middle / 2 ? "query" : "key", Math.min(n - 1, Math.floor(event.offsetY / height))));
      node.addEventListener("pointerleave", rest);
      node.addEventListener("click", () => hold(active.side)(active.i));
      left.numbers(null, said);
      view.place([side, middle, side], heading("attends"), make("div"), heading("is attended to"), left.ul, both, right.ul);
      view.say(`${signed ? "orange, solid: more; purple, dashed: less; " : ""}width: share of the strongest of its token`);
      view.types(types);
      keep(tokens, tokens, row);
      paint();
    }
    function matrix() {
      const { layer, head } = at(), A = pick(layer, head);
      cells(view, { rowNames: tokens, rowTypes: types, columnNames: tokens, columnTypes: types, values: A, signed, folded: spec.folded, skip: 1, what: `Attention, ${where(at())}.`,
        on: { key, corner: "attends ↓ to →", most: signed ? null : (name) => `${name} attends most to`, idle: hint } });
      view.types(types);
      keep(tokens, tokens, (i) => A.subarray(i * n, (i + 1) * n));
    }
    const heads = () => { // rows of the target, of one layer or all, of one head or all
      const { layer, head } = at(), names = [], values = [];
      for (let a = 0; a < L; a++) for (let h = 0; h < H; h++) {
        if ((layer && a !== layer - 1) || (head && h !== head - 1)) continue;
        names.push(`layer ${a + 1}, head ${h + 1}`); values.push(target(a * H + h));
      }
      return { names, values };
    };
    function strip() {
      const { names, values } = heads(), flat = Float32Array.from(values.flatMap((part) => [...part]));
      cells(view, { rowNames: names, columnNames: tokens.slice(0, m), columnTypes: types.slice(0, m), values: flat, signed, folded: spec.folded, what: `Attention of ${tokens[n - 1]}.`, on: { key, corner: `${tokens[n - 1]} attends to →`, idle: hint } });
      view.types(types.slice(0, m));
      keep(tokens.slice(0, m), names, (i) => values[i]);
    }
    function groups() {
      const { names, values } = heads(), kinds = [...new Set(types.slice(0, m))], t = view.theme, height = Math.max(20, tall(names.length));
      const sums = values.map((part) => kinds.map((kind) => part.reduce((s, v, j) => s + (types[j] === kind ? v : 0), 0)));
      const [left, room] = view.split(0.3, 160, 900);
      const reach = signed ? largest(sums.flat()) * 2 * kinds.length : Math.max(...sums.map(total));
      const said = names.map((name, i) => `${name}: ${kinds.map((kind, k) => `${kind} ${fine(sums[i][k])}`).join(", ")}`);
      const { node, ctx, clear } = view.canvas(room, height * names.length, `Attention of ${tokens[n - 1]} by group. ${said[0]}.`);
      const colours = kinds.map((kind, k) => BARS[kind in GLYPHS ? Object.keys(GLYPHS).indexOf(kind) : (k + 2) % BARS.length]);
      const paint = (i) => {
        clear();
        sums.forEach((parts, r) => {
          let x = 0;
          parts.forEach((v, k) => {
            if (signed) x = ((k + 0.5) * room) / kinds.length;
            const w = (v / reach) * room;
            ctx.globalAlpha = i >= 0 && i !== r ? 0.45 : 1;
            ctx.fillStyle = colours[k]; ctx.fillRect(x, r * height + 1, signed ? w : Math.max(0, w - 1), height - 2);
            ctx.globalAlpha = 1;
            const text = `${glyph(kinds[k], kinds)} ${num(v)}`;
            if (signed || w > ctx.measureText(text).width + 8) write(ctx, text, x + (signed ? w : 0) + (v < 0 ? -4 : 4), (r + 0.5) * height + 0.5, signed ? t.fg : bright(hex(colours[k].slice(1))[0]) ? "#000" : "#fff", v < 0 ? "right" : "left");
            x += w;
          });
        });
        view.read.textContent = i >= 0 ? `${said[i]}.` : hint;
      };
      const list = beside(view, node, "layers and heads", names, null, height, paint, { key });
      list.numbers(null, said);
      view.place([left, room], list.ul, node);
      view.types(kinds, colours);
      keep(kinds, names, (i) => sums[i]);
      list.rest();
    }
    function flow() { // half of each state is the residual: rollout (Abnar & Zuidema 2020)
      const { head } = at(), t = view.theme, height = tall(n), [left, room] = view.split(0.36, 260, 900);
      const share = Array.from({ length: L + 1 }, () => new Float32Array(n)), edges = [];
      share[L][n - 1] = 1;
      for (let a = L - 1; a >= 0; a--) {
        const A = pick(a + 1, head);
        for (let i = 0; i < n; i++) {
          const c = share[a + 1][i];
          if (!c) continue;
          const none = Number.isNaN(A[i * n]);
          for (let j = 0; j < n; j++) {
            const w = 0.5 * c * ((none ? i === j : A[i * n + j]) + (i === j));
            if (w > 0) { share[a][j] += w; if (w > 0.001) edges.push([a, i, j, w]); }
          }
        }
      }
      const rest = total(share[0].subarray(0, n - 1)) || 1, part = share[0].map((v, j) => (j < n - 1 ? v / rest : 0)); // without the target's own share, as `rolled`
      const x = (a) => 14 + ((room - 34) * a) / L, y = (i) => (i + 0.5) * height;
      const said = tokens.map((name, i) => `${name}, ${types[i]}: ${fine(part[i])} of what reaches ${tokens[n - 1]}`);
      const { node, ctx, clear } = view.canvas(room, n * height + 18, `Flow of attention to ${tokens[n - 1]} through ${L} layers. Largest: ${strongest(part, tokens, 3)}.`);
      const paint = (active) => {
        clear();
        for (const [a, i, j, w] of edges) {
          const hot = active >= 0 && (i === active || j === active);
          ctx.globalAlpha = hot ? 0.9 : active >= 0 ? 0.12 : 0.5; ctx.strokeStyle = hot ? t.hot : t.line; ctx.lineWidth = Math.max(0.5, Math.min(height, 26 * w));
          curve(ctx, x(a), y(j), x(a + 1), y(i));
        }
        ctx.globalAlpha = 1;
        for (let a = 0; a <= L; a++) {
          for (let i = 0; i < n; i++) if (share[a][i] > 0.001) { ctx.fillStyle = i === active ? t.hot : t.fg; dot(ctx, x(a), y(i), Math.max(1.5, Math.min(height / 2 - 1, 9 * Math.sqrt(share[a][i])))); }
          write(ctx, a ? `after ${a}` : "input", a ? (a === L ? room - 2 : x(a)) : 0, n * height + 16, t.mute, a ? (a === L ? "right" : "center") : "left", "bottom");
        }
        view.read.textContent = active < 0 ? `Largest: ${strongest(part, tokens)}.` : `${said[active]}; by layer ${share.map((s) => num(s[active])).join(", ")}.`;
      };
      const list = beside(view, node, "tokens", tokens, marks, height, paint, { key });
      list.numbers([...part].map((v) => (v < 0.005 ? "" : num(v))), said);
      view.place([left, room], list.ul, node);
      view.say("numbers: shares of what reaches the target, half of each state being its residual");
      view.types(types);
      keep(["share", ...share.map((_, a) => (a ? `after layer ${a}` : "input"))], tokens, (i) => [part[i], ...share.map((s) => s[i])]);
      list.rest();
    }
    const idle = (name) => name === "layer" && at().view === "rollout"; // which shows all of them
    const range = (name, count) => ({ name, label: name, kind: "range", options: ["mean", ...Array.from({ length: count }, (_, i) => `${i + 1}`)] });
    const controls = [{ name: "view", label: "show", kind: "choice", options: spec.views.map(([, name]) => name) }, range("layer", L), range("head", H)];
    return { local: true, idle, controls, draw: () => ({ heads: lines, tokens: matrix, target: strip, groups, rollout: flow })[at().view](), table: () => data };
  },

  live(view) { // what was bought and the request are chosen; list and attention follow, computed here
    const { spec } = view, { titles, fields } = spec, answer = recommender(spec), events = [...spec.events], inner = {};
    let first, list = [], chances = [];
    events.forEach((_, i) => { view.values[`event_${i}`] ??= true; });
    const controls = () => [
      ...fields, { name: "add", label: "and then", kind: "text", options: ["a title"], among: titles },
      ...events.map(([code], i) => ({ name: `event_${i}`, label: titles[code], kind: "toggle" })),
    ];
    const show = (name, made) => {
      if (inner[name]) return inner[name].update(made);
      const host = make("div");
      view.stage.append(host);
      inner[name] = new View(host, made, { within: view });
    };
    return {
      local: true, lasting: true, controls: controls(), toggles: "history, a click leaves out", answer,
      draw() {
        const typed = (view.values.add ?? "").trim().toLowerCase(), found = typed ? titles.findIndex((t) => t.toLowerCase() === typed) : -1;
        view.fail(typed && found < 0 ? `${view.values.add} is not in the catalogue: take one of the titles that are offered.` : "");
        if (typed) { view.values = { ...view.values, add: "" }; view.show(); } // before it loses focus
        if (found >= 0) {
          events.push([found, 0, 0]);
          view.values[`event_${events.length - 1}`] = true;
          view.control(view.all = controls());
          view.root.querySelector(".text input").focus();
        }
        const start = performance.now(), kept = events.filter((_, i) => view.values[`event_${i}`]).slice(-spec.history), seen = new Set(spec.repeats ? [] : kept.map(([code]) => code));
        const codes = fields.map((f) => view.values[f.name] ?? 0), parts = (list) => [list.slice(spec.requests), list.slice(0, spec.requests)];
        const words = fields.map((f, i) => (codes[i] ? [`${f.label} ${f.options[codes[i]]}`] : []));
        const { logits, weights, shape } = answer(kept, ...parts(codes));
        const best = [...logits.keys()].filter((i) => !seen.has(i)).sort((a, b) => logits[b] - logits[a]).slice(0, spec.k);
        const took = performance.now() - start, [profile, request] = parts(words).map((part) => part.flat());
        [list, chances] = [titles, softmax(logits)].map((all) => best.map((i) => all[i]));
        first ??= list;
        const names = { start: ["start"], profile, history: kept.map(([code]) => titles[code]), request, target: ["next item"] };
        show("moves", { kind: "moves", title: "The list", before: first, after: list, names: ["at first", "now"] });
        show("attention", { kind: "attention", title: "Where it attends", note: spec.where, views: spec.views, folded: -1, shape, weights, tokens: Object.values(names).flat(), types: Object.entries(names).flatMap(([type, part]) => part.map(() => type)) });
        view.read.textContent = `Most likely next: ${list[0]}, probability ${fine(chances[0])} among ${titles.length} items. Computed in this page in ${took.toFixed(0)} ms.`;
      },
      remove() { for (const one of Object.values(inner)) one.remove(); },
      table: () => ({ columns: ["probability"], rows: list.map((title, i) => [`${i + 1}. ${title}`, chances[i]]) }),
    };
  },

  overlay(view) { // what tokens attend to among the patches of pictures, row by row
    const { tokens, pictures, q, top } = view.spec, values = decode(q, top), size = values.length / tokens.length, digits = short(top);
    const row = (i) => values.subarray(i * size, (i + 1) * size), column = (j) => tokens.map((_, i) => values[i * size + j]);
    const names = pictures.flatMap(({ type, grid: [R, C] }) => Array.from({ length: R * C }, (_, p) => `${type} ${R > 1 ? `row ${Math.floor(p / C) + 1} column ` : ""}${(p % C) + 1}`));
    const said = tokens.map((token, i) => `${token} attends to: ${strongest(row(i), names)}`);
    return {
      draw() {
        const [left, side] = view.split(0.36, 260, 340), box = make("div", { class: "over" });
        let from = 0, near; // near: the patch pointed at
        const parts = pictures.map(({ type, grid: [R, C], png }) => {
          const height = Math.round(side * (R > 1 ? R / C : 0.4)), part = { first: from, count: R * C, C, wide: side / C, high: height / R, ...view.canvas(side, height, `${type}. ${said[0]}.`) };
          box.append(make("div", {}, heading(type), make("div", { class: "both" }, make("img", { src: `data:image/png;base64,${png}`, alt: "", width: side, height }), part.node)));
          from += part.count;
          return part;
        });
        const paint = (i) => {
          for (const { ctx, clear, first, count, C, wide, high } of parts) {
            clear();
            for (let p = 0; p < count; p++) {
              const x = (p % C) * wide, y = Math.floor(p / C) * high, value = values[i * size + first + p], colour = tint(value / top, false, true);
              if (i >= 0) {
                ctx.globalAlpha = 0.65; ctx.fillStyle = css(colour); ctx.fillRect(x, y, wide, high); ctx.globalAlpha = 1;
                if (wide > 36) write(ctx, digits(value), x + wide / 2, y + high / 2, bright(colour) ? "#000" : "#fff", "center");
              }
              ctx.strokeStyle = view.theme.hot; ctx.lineWidth = 3;
              if (first + p === near) ctx.strokeRect(x + 2, y + 2, wide - 4, high - 4);
            }
          }
          const given = near >= 0 ? column(near) : tokens.map((_, i) => total(row(i)));
          list.numbers(given.map(digits), said);
          view.read.textContent = near >= 0 ? `${names[near]} is attended to by: ${strongest(given, tokens)}.` : i < 0 ? "↑ ↓ tokens, Enter pins, Escape releases." : `${said[i]}.`;
          near = undefined;
        };
        const find = ({ target, offsetX, offsetY }) => {
          const part = parts.find(({ node }) => node === target);
          if (part) near = part.first + Math.floor(offsetY / part.high) * part.C + Math.floor(offsetX / part.wide);
        };
        const list = beside(view, box, "tokens that attend", tokens, null, Math.max(20, tall(tokens.length)), paint, { pin: 0, find });
        view.place([left, view.drawn - left], list.ul, box);
        view.scale(top, false, true);
        view.say("numbers: attention to all patches, or to one pointed at");
        list.rest();
      },
      table: () => ({ columns: names, rows: tokens.map((token, i) => [token, ...row(i)]) }),
    };
  },

  heat(view) {
    const { spec } = view, C = spec.columns.length, values = decode(spec.q, spec.top, spec.signed);
    return {
      draw() {
        cells(view, { rowNames: spec.rows, columnNames: spec.columns, columnTypes: spec.types, values, signed: spec.signed, folded: spec.folded, what: `${spec.title}.`, unit: spec.unit ? ` ${spec.unit}` : "", on: { idle: "↑ ↓ rows, ← → columns, Enter pins, Escape releases." } });
        if (spec.types) view.types(spec.types);
      },
      table: () => ({ columns: spec.columns, rows: spec.rows.map((name, i) => [name, ...values.subarray(i * C, (i + 1) * C)]) }),
    };
  },

  moves(view) { // two lists of titles, and which rank becomes which
    const { before, after, names } = view.spec;
    const both = [before, after], ranks = (text) => both.map((titles) => titles.indexOf(text) + 1), most = Math.max(before.length, after.length);
    const how = (text) => {
      const [a, b] = ranks(text);
      return !a ? "new" : !b ? "gone" : a === b ? "=" : a > b ? `▲ ${a - b}` : `▼ ${b - a}`;
    };
    const tell = (text) => {
      const [a, b] = ranks(text);
      return `${text}: ${!a ? `rank ${b}, not on the list before` : !b ? `rank ${a}, not on the list any more` : a === b ? `stays at rank ${a}` : `from rank ${a} to rank ${b}`}`;
    };
    return {
      draw() {
        const [side, middle] = view.split(0.38, 380, 420, 2), height = 24, t = view.theme;
        const stay = before.filter((text, i) => after.includes(text) && before.indexOf(text) === i), said = `${stay.length} of ${before.length} stay on the list.`;
        const { node, ctx, clear } = view.canvas(middle, most * height, said);
        let pin = "";
        const paint = (active) => {
          clear();
          for (const text of stay) {
            const [a, b] = ranks(text);
            ctx.strokeStyle = text === active ? t.hot : b < a ? t.line : t.mute; ctx.lineWidth = text === active ? 3.5 : 1.8; ctx.setLineDash(b > a ? [6, 4] : []);
            curve(ctx, 4, (a - 0.5) * height, middle - 4, (b - 0.5) * height);
          }
          both.forEach((titles, k) => lists[k].mark(titles.indexOf(active), titles.indexOf(pin)));
          view.read.textContent = active ? `${tell(active)}.` : said;
        };
        const lists = both.map((titles, k) => {
          const list = rows(view, names[k], titles, titles.map((_, i) => `${i + 1}`), height, { hover: (i) => paint(titles[i]), leave: () => paint(pin), pin: (i) => { pin = titles[i] === pin || i < 0 ? "" : titles[i]; paint(pin); } });
          list.bold(titles.map((text) => !both[1 - k].includes(text)));
          list.numbers(titles.map((text) => (k || !after.includes(text) ? how(text) : "")), titles.map(tell));
          return list;
        });
        view.place([side, middle, side], heading(names[0]), make("div"), heading(names[1]), lists[0].ul, node, lists[1].ul);
        view.say("solid: rises or stays", "dashed: falls", "bold: on one list only");
        paint("");
      },
      table: () => ({ columns: names, rows: [...new Set(both.flat())].map((text) => [text, ...ranks(text).map((rank) => `${rank || "–"}`)]) }),
    };
  },

  tree(view) { // nodes: [level, node, log-likelihood, 0 other | 1 leads to the list | 2 chosen], a level after the other
    const { nodes, widths, leaves, depth } = view.spec, whole = depth === widths.length;
    const ends = nodes.filter(([level, , , kind]) => level === depth && kind > 0).sort((a, b) => b[2] - a[2]);
    const up = (node, level) => Math.floor(node / widths[level - 1]);
    const path = ([level, node]) => { const found = new Set(); for (; level > 0; node = up(node, level--)) found.add(`${level},${node}`); return found; };
    const value = new Map(nodes.map(([level, node, score]) => [`${level},${node}`, score]));
    const tell = (end) => [...path(end)].reverse().map((k) => { const [level, node] = k.split(",").map(Number); return `digit ${level} = ${node % widths[level - 1]} (${num(value.get(k))})`; }).join(", ");
    const name = ([, node]) => (whole ? leaves[node] ?? `leaf ${node}` : `node ${node}`);
    return {
      draw() {
        const [side, room] = view.split(0.42, 380, 900), t = view.theme, row = ends.length > 30 ? 14 : Math.max(22, Math.min(44, 300 / (ends.length || 1))), height = Math.max(300, ends.length * row);
        const spot = new Map([["0,0", [10, height / 2]]]), x = (level) => 10 + ((room - 18) * level) / depth;
        for (let level = 1; level <= depth; level++) {
          const part = nodes.filter((one) => one[0] === level && (level < depth || one[3] > 0)).sort((a, b) => a[1] - b[1]);
          part.forEach(([, node], i) => spot.set(`${level},${node}`, [x(level), ((i + 0.5) * height) / part.length]));
        }
        ends.forEach((end, i) => spot.set(`${depth},${end[1]}`, [x(depth), (i + 0.5) * row])); // beside its name
        const drawn = nodes.filter(([level, node]) => spot.has(`${level},${node}`));
        const { node, ctx, clear } = view.canvas(room, height + 18, `${ends.length} paths through ${depth} digits lead to the list. ${ends[0] ? `${name(ends[0])}: ${tell(ends[0])}.` : ""}`);
        const paint = (active) => {
          const hot = active >= 0 ? path(ends[active]) : new Set();
          clear();
          for (const pass of [0, 1, 2]) for (const [level, id, , kind] of drawn) {
            const k = `${level},${id}`, rank = hot.has(k) ? 2 : kind > 0 ? 1 : 0;
            if (rank !== pass) continue;
            const [a, b] = [spot.get(`${level - 1},${up(id, level)}`), spot.get(k)];
            if (!a) continue;
            ctx.strokeStyle = ctx.fillStyle = [t.edge, t.line, t.hot][rank]; ctx.lineWidth = [0.8, 1.6, 3][rank];
            ctx.beginPath(); ctx.moveTo(...a); ctx.lineTo(...b); ctx.stroke();
            dot(ctx, ...b, [1.5, 3, 4][rank]);
          }
          for (let level = 1; level <= depth; level++) write(ctx, `digit ${level}`, Math.min(room - 2, x(level)), height + 16, t.mute, level === depth ? "right" : "center", "bottom");
          view.read.textContent = active >= 0 ? `${name(ends[active])}: ${tell(ends[active])}. In brackets: log-likelihood so far.` : `${ends.length} paths lead to the list.`;
        };
        const find = ({ offsetX, offsetY }) => { // the nearest path of the list
          const far = ([x, y]) => Math.hypot(x - offsetX, y - offsetY);
          const [near] = drawn.filter((one) => one[3] > 0).map(([level, node]) => `${level},${node}`).sort((a, b) => far(spot.get(a)) - far(spot.get(b)));
          return near && far(spot.get(near)) < 24 ? ends.findIndex((end) => path(end).has(near)) : null;
        };
        const list = beside(view, node, whole ? "the list" : "nodes", ends.map(name), null, row, paint, { pin: ends.findIndex((end) => end[3] === 2), find });
        list.numbers(ends.map((end) => num(end[2])), ends.map((end) => `${name(end)}: ${tell(end)}`));
        view.place([room, side], node, list.ul);
        view.say("bold lines: lead to the list", "thin grey lines: kept by the beam, lead nowhere");
        list.rest();
      },
      table: () => ({ columns: ["digits and log-likelihood so far"], rows: ends.map((end) => [name(end), tell(end)]) }),
    };
  },
};

export function mount(host, spec, options) { return new View(host, spec, options); }

export function render({ model, el }) { // anywidget
  const host = make("div");
  el.append(host);
  const view = new View(host, model.get("spec"), {
    values: model.get("values"),
    change: (values) => { model.set("values", values); model.save_changes(); },
  });
  const on = { "change:spec": () => view.update(model.get("spec")), "change:values": () => view.set(model.get("values")), "change:error": () => view.fail(model.get("error")) };
  for (const [name, call] of Object.entries(on)) model.on(name, call);
  return () => { for (const [name, call] of Object.entries(on)) model.off(name, call); view.remove(); };
}
export default { render };

for (const figure of document.querySelectorAll("figure.m6rec-view[data-view]")) { // of a page
  const host = make("div"), picture = [...figure.children];
  try {
    figure.prepend(host);
    mount(host, JSON.parse(figure.dataset.view));
    figure.removeAttribute("data-view");
    for (const part of picture) part.hidden = true;
  } catch (error) { // the picture stands
    host.remove();
    console.error(error);
  }
}
