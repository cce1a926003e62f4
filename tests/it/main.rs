//! Tests the gateway over real connections: gRPC over a socket, and HTTP to the simulator.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod issuer;
#[path = "../leaks/mod.rs"]
mod leaks;
#[path = "../samples/mod.rs"]
mod samples;
mod secrets;
mod support;

mod access;
mod account;
mod activity;
mod audit;
mod authorizers;
mod callback;
mod callers;
mod card;
mod cloud;
mod concurrency;
mod contract;
mod damage;
mod deadlines;
mod documented;
mod door;
mod endpoints;
mod external;
mod fuzz;
mod hostile;
mod hosts;
mod input;
mod jwt;
mod layers;
mod lifecycle;
mod limits;
mod listen_tls;
mod lists;
mod live;
mod map_poi;
mod media;
mod merchant;
mod metrics;
mod nearby;
mod odd;
mod overdue_reviews;
mod platform;
mod quota;
mod recovery;
mod redis;
mod redis_loss;
mod redis_outage;
mod redis_places;
mod runbook;
mod sealed;
#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
#[path = "../redis/mod.rs"]
mod servers;
mod service_config;
mod stalled;
mod state;
mod state_copy;
mod state_fails;
mod state_platforms;
mod state_sqlite;
mod statuses;
mod store;
mod stored;
mod threats;
mod tls;
mod token_service;
mod tokens;
mod watchers;
mod whole;
mod write_queues;
mod writes;
