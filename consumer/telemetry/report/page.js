"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const places = document.querySelectorAll(".plot");

function painted(figure, color, width) {
  const axis = { gridcolor: color("line"), linecolor: color("line"), zerolinecolor: color("line") };
  return {
    data: figure.data.map((trace) => ({
      ...trace,
      marker: { ...trace.marker, color: color("c" + trace.meta.color) },
      line: trace.type === "scatter" ? { ...trace.line, color: color("c" + trace.meta.color) } : undefined,
    })),
    layout: {
      ...figure.layout,
      xaxis: { ...axis, tickangle: 0, nticks: 5, ...figure.layout.xaxis },
      yaxis: { ...axis, automargin: true, ...figure.layout.yaxis },
      font: { family: "system-ui, sans-serif", size: 12, color: color("quiet") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: color("card"), bordercolor: color("line"), font: { color: color("ink") } },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      margin: { t: 30, r: 12, b: 45, l: 40, ...figure.layout.margin },
      width,
      dragmode: false,
    },
  };
}

// on paper it is always day, and narrow
function paint(paper = false) {
  document.documentElement.classList.toggle("paper", paper);
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue("--" + name).trim();
  figures.forEach((figure, place) => {
    const { data, layout } = painted(figure, color, paper ? places[place].clientWidth : undefined);
    Plotly.react(places[place], data, layout, { responsive: true, displayModeBar: false });
  });
}

paint();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint());
addEventListener("beforeprint", () => paint(true));
addEventListener("afterprint", () => {
  paint();
  places.forEach((place) => Plotly.Plots.resize(place));
});
