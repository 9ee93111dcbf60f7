// Swagger UI on our own description. No validator: that would ask a server elsewhere.
"use strict";

SwaggerUIBundle({ url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });
