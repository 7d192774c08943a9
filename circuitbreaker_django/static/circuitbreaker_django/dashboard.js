/* Keeps the dashboard true without a reload. The page works without it.
 *
 * It asks one URL for the rows that the page shows and writes what has changed into the cells that
 * are there: no element is replaced, so focus, selection and scrolling stay. */
"use strict";

{
  const MOST = 60; // seconds between two tries at most, when there is no answer
  const PATIENCE = 10; // seconds that an answer may take
  const SPOKEN = 5; // changes that are announced at once

  const live = document.querySelector("[data-live]");
  const words = JSON.parse(document.getElementById("cb-words").textContent);
  const rows = new Map(
    [...document.querySelectorAll("[data-row]")].map((row) => [
      row.dataset.row,
      { element: row, at: Number(row.dataset.at) },
    ]),
  );
  const list = document.querySelector("[data-rows]");
  const banners = document.querySelector("[data-banners]");
  const said = document.querySelector("[data-said]");
  const age = live.querySelector("[data-age]");
  const notice = live.querySelector("[data-notice]");
  const reload = live.querySelector("[data-reload]");
  const toggle = live.querySelector("[data-toggle]");
  const every = Number(live.dataset.every);
  const title = document.title;

  let timer; // of the next try
  let wait = every; // seconds until the next try
  let due = 0; // when it is, once a try has failed
  let asking = false; // one question at a time
  let askedAt = 0;
  let seenAt = performance.now(); // when all that the page shows was true
  let lost = false; // a store, so that some of it is old
  let stopped = false;
  let ended = false;

  const now = () => performance.now();
  const fill = (text, value) => text.replace("%s", value);

  function write(element, text) {
    if (element && element.textContent !== text) element.textContent = text;
  }

  // -- asking -------------------------------------------------------------------------------

  function later(seconds) {
    clearTimeout(timer);
    if (!stopped && !ended && !document.hidden) timer = setTimeout(ask, seconds * 1000);
  }

  async function ask() {
    clearTimeout(timer);
    if (asking) return; // the next try follows its answer
    asking = true;
    askedAt = now();
    const url = new URL(live.dataset.url, location.href);
    if (list.dataset.order) url.searchParams.set("rows", [...rows.keys()].join(","));
    try {
      const answer = await fetch(url, {
        headers: { Accept: "application/json" },
        redirect: "manual", // to the login page
        signal: AbortSignal.timeout(PATIENCE * 1000),
      });
      if (answer.type === "opaqueredirect" || answer.status === 403) {
        end();
        return;
      }
      if (!answer.ok) throw new Error(answer.status);
      // By the server's clock, which tells how old rows are; this one may be wrong.
      const served = Date.parse(answer.headers.get("Date") ?? new Date()) / 1000;
      show(await answer.json(), served);
      wait = every;
      due = 0;
    } catch {
      wait = Math.min(2 * wait, MOST);
      due = now() + wait * 1000;
    } finally {
      asking = false;
    }
    tick();
    later(wait);
  }

  function end() {
    ended = true;
    toggle.hidden = true;
    reload.hidden = false;
    write(said, words.ended);
    tick();
  }

  // -- showing ------------------------------------------------------------------------------

  function show(data, served) {
    const news = [...showBanners(data.banners)];
    lost = data.rows.some((row) => row.lost);
    for (const row of data.rows) {
      const known = rows.get(row.id);
      if (known && showRow(known, row)) news.push(announce(row));
    }
    const times = data.rows.filter((row) => row.lost).map((row) => rows.get(row.id)?.at || served);
    seenAt = now() - (served - Math.min(served, ...times)) * 1000;
    if (list.dataset.order) {
      for (const [name, count] of Object.entries(data.counts))
        write(document.querySelector(`[data-count="${name}"]`), String(count));
      document.title = data.counts.open ? `(${data.counts.open}) ${title}` : title;
      if (list.dataset.order !== data.order) moved();
    }
    if (news.length) write(said, news.slice(0, SPOKEN).join(" "));
  }

  function announce(row) {
    const parts = { name: row.name, state: row.state, reason: row.cells.reason ?? "" };
    return words.said.replace(/%\((\w+)\)s/g, (_, name) => parts[name]).trim();
  }

  function moved() {
    notice.hidden = reload.hidden = false;
  }

  /** The texts that are new. What is lost stays as it was told first: each process knows another
   *  moment of it, and the next answer may come from another process. */
  function* showBanners(wanted) {
    const shown = new Map([...banners.children].map((one) => [one.dataset.key, one]));
    const order = wanted.map((one) => {
      const banner = shown.get(one.key) ?? document.createElement("p");
      if (!shown.has(one.key)) {
        banner.className = "cb-banner";
        Object.assign(banner.dataset, { level: one.level, key: one.key });
      }
      if (!shown.has(one.key) || one.level !== "error") write(banner, one.text);
      return banner;
    });
    if (order.some((banner, index) => banners.children[index] !== banner)
        || order.length !== banners.children.length) banners.replaceChildren(...order);
    for (const one of wanted) if (!shown.has(one.key)) yield one.text;
  }

  /** Whether it looks otherwise than before. */
  function showRow(known, row) {
    const { element } = known;
    if (row.lost && row.at < known.at) return false; // no news
    known.at = row.at;
    const changed = element.dataset.look !== row.look;
    if (changed) {
      element.dataset.look = row.look;
      const state = element.querySelector(".cb-state");
      state.dataset.look = row.look;
      state.querySelector("use").setAttribute("href", `#cb-${row.look}`);
      element.classList.add("cb-new");
    }
    known.retryAt = row.retry_in === null ? null : now() + row.retry_in * 1000;
    const texts = { ...row.cells, state: row.state };
    for (const cell of element.querySelectorAll("[data-cell]")) {
      const value = texts[cell.dataset.cell] ?? "";
      write(cell, value.text ?? value);
      if (value.iso) cell.setAttribute("datetime", value.iso);
    }
    for (const path of element.querySelectorAll("[data-path]"))
      path.setAttribute("d", row.paths[path.dataset.path] ?? "");
    if (known.epoch !== undefined && known.epoch !== row.epoch && !list.dataset.order) moved();
    known.epoch = row.epoch;
    for (const control of element.querySelectorAll("[data-epoch]")) {
      const [kind] = control.name === "one" ? control.value.split(" ", 1) : [];
      control.value = [...(kind ? [kind] : []), row.epoch, row.pk].join(" ");
    }
    return changed;
  }

  // -- each second --------------------------------------------------------------------------

  function tick() {
    live.dataset.state = ended ? "ended" : stopped ? "stopped" : due || lost ? "lost" : "live";
    write(age, ended ? words.ended : stopped ? words.paused : aged());
    for (const known of rows.values()) countDown(known);
  }

  function aged() {
    const seconds = Math.max(0, Math.round((now() - seenAt) / 1000));
    const text = fill(words.age, seconds);
    if (!due) return text;
    return `${text} ${fill(words.lost, Math.max(0, Math.ceil((due - now()) / 1000)))}`;
  }

  function countDown(known) {
    const cell = known.element.querySelector('[data-cell="retry"]');
    if (!cell || !known.retryAt || known.element.dataset.look === "half_open") return;
    if (cell.textContent === "") return;
    const left = Math.ceil((known.retryAt - now()) / 1000);
    if (left <= 0) {
      write(cell, words.now);
      known.retryAt = null;
      if (!due) later(0.2); // it may be half-open now
    } else if (left < 120) {
      write(cell, fill(words.seconds, left));
    } else if (left < 172800) {
      const two = (number) => String(Math.floor(number)).padStart(2, "0");
      const clock = `${two((left % 3600) / 60)}:${two(left % 60)}`;
      write(cell, fill(words.clock, left < 3600 ? clock : `${Math.floor(left / 3600)}:${clock}`));
    }
  }

  // -- who looks, and who does not ----------------------------------------------------------

  function rename() {
    write(toggle, stopped ? words.go : words.stop);
  }

  toggle.addEventListener("click", () => {
    stopped = !stopped;
    rename();
    tick();
    if (stopped) clearTimeout(timer);
    else ask();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else later(Math.max(0, every - (now() - askedAt) / 1000));
  });

  // So that the next change is seen too.
  list.addEventListener("animationend", (event) => event.target.classList.remove("cb-new"));

  const all = document.querySelector("[data-all]");
  if (all) {
    all.hidden = false;
    all.addEventListener("change", () => {
      for (const one of list.querySelectorAll("[name=selected]")) one.checked = all.checked;
    });
  }

  rename();
  live.hidden = false;
  setInterval(tick, 1000);
  ask();
}
