//! What operators program in YAML: rules on routes and upstreams, whatever carries the requests.

mod files;
mod headers;
mod matching;
mod rewrites;
mod splits;
