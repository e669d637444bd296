//! Tests on a real Chromium. They fail, and are never skipped, where there is
//! none.

mod launch;
mod supervision;
mod support;
