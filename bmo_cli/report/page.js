"use strict";

// --- dark and light ---------------------------------------------------------------------------

const root = document.documentElement;
root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
});

// --- tables -----------------------------------------------------------------------------------

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const cell = row.cells[column];
        return cell.dataset.sort === undefined ? cell.textContent : Number(cell.dataset.sort);
      };
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // what is missing comes last
        const sign = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(y);
        return down ? -sign : sign;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    });
  });
}

// --- curves -----------------------------------------------------------------------------------

for (const button of document.querySelectorAll(".legend button")) {
  const problem = button.closest(".problem");
  const own = () => problem.querySelectorAll(`.series[data-run="${button.dataset.run}"]`);
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    own().forEach((line) => line.classList.toggle("off", !on));
  });
  const point = (on) => {
    for (const line of own()) {
      line.classList.toggle("pointed", on);
      line.closest(".chart").classList.toggle("pointed", on);
    }
  };
  for (const name of ["pointerenter", "focus"]) button.addEventListener(name, () => point(true));
  for (const name of ["pointerleave", "blur"]) button.addEventListener(name, () => point(false));
}

for (const select of document.querySelectorAll(".axis-choice")) {
  select.addEventListener("change", () => {
    for (const charts of select.closest("section").querySelectorAll(".charts")) {
      charts.hidden = charts.dataset.axis !== select.value;
    }
  });
}

// --- pictures ---------------------------------------------------------------------------------

const albums = JSON.parse(document.getElementById("albums").textContent);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

for (const element of document.querySelectorAll(".album")) {
  const album = albums[Number(element.dataset.album)];
  const viewers = [...element.querySelectorAll(".viewer")];
  const [chosenLeft, chosenRight] = ["left", "right"].map((side) => element.querySelector(`.choose-${side}`));
  const view = { zoom: 1, x: 0, y: 0, divider: 50 }; // x, y: shift as a share of the stage

  const names = [...new Set(album.cases.flatMap((one) => one.pictures.map((picture) => picture.name)))];
  for (const select of [chosenLeft, chosenRight]) {
    select.append(...names.map((name) => new Option(name, name)));
  }
  const first = album.cases[0].pictures;
  const observed = first.filter((picture) => picture.run === null)[1] ?? first[0];
  const restored = first.find((picture) => picture.run !== null) ?? first[first.length - 1];
  chosenLeft.value = observed.name;
  chosenRight.value = restored.name;

  const place = () => {
    view.zoom = clamp(view.zoom, 1, 32);
    view.x = clamp(view.x, 1 - view.zoom, 0);
    view.y = clamp(view.y, 1 - view.zoom, 0);
    element.querySelector("output").textContent = `${view.zoom.toFixed(view.zoom < 10 ? 1 : 0)} x`;
    for (const viewer of viewers) {
      const shift = `translate(${100 * view.x}%, ${100 * view.y}%) scale(${view.zoom})`;
      viewer.querySelectorAll("img").forEach((image) => { image.style.transform = shift; });
      viewer.querySelector(".side").style.clipPath = `inset(0 0 0 ${view.divider}%)`;
      viewer.querySelector(".divider").style.left = `${view.divider}%`;
      const range = viewer.querySelector("input");
      range.value = view.divider;
      range.setAttribute("aria-valuetext", `${chosenLeft.value} up to ${Math.round(view.divider)} %, then ${chosenRight.value}`);
    }
  };

  const fill = () => {
    viewers.forEach((viewer, i) => {
      const { name, pictures } = album.cases[i];
      const caption = [chosenLeft.value, chosenRight.value].map((wanted, side) => {
        const picture = pictures.find((one) => one.name === wanted);
        const image = viewer.querySelector(side === 0 ? "img.left" : "img.right");
        image.hidden = picture === undefined;
        if (picture !== undefined) {
          image.src = album.data[picture.key];
          image.alt = `${name}: ${wanted}`;
        }
        return picture === undefined ? `${wanted} (none)` : wanted;
      });
      viewer.querySelector("figcaption").textContent = `${name}: ${caption.join(" | ")}`;
    });
    place();
  };

  // Zoom about a point of the stage, given as shares of its size.
  const zoom = (factor, x = 0.5, y = 0.5) => {
    const before = view.zoom;
    view.zoom = clamp(before * factor, 1, 32);
    view.x = x - ((x - view.x) * view.zoom) / before;
    view.y = y - ((y - view.y) * view.zoom) / before;
    place();
  };
  const reset = () => { Object.assign(view, { zoom: 1, x: 0, y: 0 }); place(); };

  for (const viewer of viewers) {
    const stage = viewer.querySelector(".stage");
    const side = document.createElement("div");
    side.className = "side";
    side.append(viewer.querySelector("img.right"));
    stage.insertBefore(side, viewer.querySelector(".divider"));

    viewer.querySelector("input").addEventListener("input", (event) => {
      view.divider = Number(event.target.value);
      place();
    });
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = stage.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY / 300), (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    }, { passive: false });

    const fingers = new Map();
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, event);
    });
    stage.addEventListener("pointermove", (event) => {
      const last = fingers.get(event.pointerId);
      if (last === undefined) return;
      const box = stage.getBoundingClientRect();
      const others = [...fingers.values()].filter((finger) => finger.pointerId !== event.pointerId);
      fingers.set(event.pointerId, event);
      if (others.length === 1) { // two fingers: zoom about their middle
        const apart = (finger) => Math.hypot(finger.clientX - others[0].clientX, finger.clientY - others[0].clientY);
        const x = (event.clientX + others[0].clientX) / 2 - box.left;
        const y = (event.clientY + others[0].clientY) / 2 - box.top;
        zoom(apart(event) / Math.max(1, apart(last)), x / box.width, y / box.height);
      } else if (view.zoom > 1) {
        view.x += (event.clientX - last.clientX) / box.width;
        view.y += (event.clientY - last.clientY) / box.height;
        place();
      } else { // nothing to move: the divider follows
        view.divider = clamp((100 * (event.clientX - box.left)) / box.width, 0, 100);
        place();
      }
    });
    for (const name of ["pointerup", "pointercancel"]) {
      stage.addEventListener(name, (event) => fingers.delete(event.pointerId));
    }
    stage.addEventListener("keydown", (event) => {
      const step = 0.1;
      const actions = {
        "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), "0": reset,
        ArrowLeft: () => { view.x += step; place(); }, ArrowRight: () => { view.x -= step; place(); },
        ArrowUp: () => { view.y += step; place(); }, ArrowDown: () => { view.y -= step; place(); },
      };
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
      event.preventDefault();
      actions[event.key]();
    });
  }

  const buttons = { in: () => zoom(1.5), out: () => zoom(1 / 1.5), reset };
  for (const button of element.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", buttons[button.dataset.zoom]);
  }
  for (const select of [chosenLeft, chosenRight]) select.addEventListener("change", fill);
  fill();
}
