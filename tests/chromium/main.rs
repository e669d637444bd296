//! Tests on a real Chromium. They fail, and are never skipped, where there is
//! none.

mod fixtures;
mod launch;
mod pool;
mod printed;
mod rendering;
mod rolls;
mod supervision;
mod support;
