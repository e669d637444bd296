//! (module worker)
