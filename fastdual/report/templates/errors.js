"use strict";
// Whatever goes wrong on the page stands on the page.
const note = (text) => { document.getElementById("errors").textContent += text + "\n"; };
window.addEventListener("error", (event) => note(event.message || "a resource could not be loaded"), true);
window.addEventListener("unhandledrejection", (event) => note(String(event.reason)));
document.addEventListener("securitypolicyviolation", (event) => note("refused: " + event.blockedURI));
