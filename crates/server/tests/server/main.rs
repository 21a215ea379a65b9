//! The server as its clients meet it, over real connections.

mod budgets;
mod calls;
mod common;
mod forms;
mod histories;
mod log;
mod logprobs;
mod loops;
mod serve;
mod tls;
mod trace;
