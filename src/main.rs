//! The binary `onecommit`.

fn main() {
    std::process::exit(onecommit::cli::main(std::env::args_os()));
}
