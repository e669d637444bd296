//! (module renderer)
