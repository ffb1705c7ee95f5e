"use strict";
// Shows the description that is in the page. Swagger UI has a look for each colour scheme, and no rule that chooses one.

const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();

const description = document.getElementById("description");
SwaggerUIBundle({
  spec: JSON.parse(description.textContent),
  dom_id: "#main",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  validatorUrl: null,
  ...(description.dataset.canTry === "yes" ? {} : { supportedSubmitMethods: [] }),
});
