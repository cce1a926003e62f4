//! For operators, by HTTP: `/livez` and `/readyz`.
