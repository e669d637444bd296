//! (module job)
