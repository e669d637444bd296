//! (module memory)
