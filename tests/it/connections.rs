//! Connections to a real Redis: over TLS, through sockets, as users with few
//! permissions; and what a worker does while Redis is hindered, silent or gone.

mod access;
mod failover;
mod gone;
mod hindered;
mod places;
mod tls;
