// Starts Swagger UI. The page says in data-document where the OpenAPI document is.
"use strict";
SwaggerUIBundle({
  url: document.currentScript.dataset.document,
  dom_id: "#swagger-ui",
  layout: "BaseLayout",
  deepLinking: true,
  showExtensions: true,
  showCommonExtensions: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  requestInterceptor(request) {
    // The server takes no change without a content type, also where there is no body.
    const changes = !["GET", "HEAD"].includes((request.method || "GET").toUpperCase());
    if (changes && !Object.keys(request.headers).some((name) => name.toLowerCase() === "content-type")) {
      request.headers["Content-Type"] = "application/json";
    }
    return request;
  },
});
