"use strict";
// Charts tell the value under the pointer, and a click goes there in the video; pictures open larger.
(() => {
  const format = (value) => Number(value.toPrecision(value >= 100 ? 4 : 3)).toString();
  const seek = (id, seconds) => {
    const video = document.getElementById(id);
    if (!video) return;
    video.currentTime = Math.max(0, seconds);
    video.scrollIntoView({ block: "nearest", behavior: "smooth" });
  };
  for (const chart of document.querySelectorAll(".chart[data-chart]")) {
    const data = JSON.parse(chart.dataset.chart);
    const plot = chart.querySelector(".chart-plot");
    const cursor = chart.querySelector(".cursor");
    const label = document.createElement("em");
    cursor.append(label);
    const placeOf = (event) => {
      const box = plot.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      return data.left + share * (data.right - data.left);
    };
    const nearest = (points, place) =>
      points.reduce((best, point) => (Math.abs(point[0] - place) < Math.abs(best[0] - place) ? point : best));
    plot.addEventListener("pointermove", (event) => {
      const place = placeOf(event);
      const [at, value] = nearest(data.points, place);
      const share = (at - data.left) / (data.right - data.left);
      cursor.style.display = "block";
      cursor.style.left = `${100 * share}%`;
      cursor.classList.toggle("flip", share > 0.6);
      label.replaceChildren();
      const when = data.along === "frame" ? `frame ${Math.round(at)}` : `${format(at)} ${data.along}`;
      label.append(when, document.createElement("br"), `${data.name} ${format(value)} ${data.unit}`);
    });
    plot.addEventListener("pointerleave", () => { cursor.style.display = "none"; });
    if (chart.dataset.video) plot.addEventListener("click", (event) => seek(chart.dataset.video, placeOf(event)));
  }
  for (const button of document.querySelectorAll("button.seek")) {
    button.addEventListener("click", () => seek(button.dataset.video, Number(button.dataset.seconds)));
  }
  const dialog = document.querySelector("dialog");
  if (dialog) {
    const large = dialog.querySelector("img");
    for (const image of document.querySelectorAll(".cells img")) {
      image.addEventListener("click", () => { large.src = image.src; large.alt = image.alt; dialog.showModal(); });
    }
    dialog.addEventListener("click", () => dialog.close());
  }
})();
