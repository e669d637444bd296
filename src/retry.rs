//! (module retry)
