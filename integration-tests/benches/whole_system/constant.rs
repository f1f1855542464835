//! An actix-web server that answers every question with the same bytes: what lookups are compared with. A process of
//! its own (this binary again), as the product is.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use actix_web::{App, HttpResponse, HttpServer, web};
use bytes::Bytes;

/// What the process does: says its address, and answers until it is killed.
pub fn serve(size: usize) {
    let answer = Bytes::from("x".repeat(size));
    let served = actix_web::rt::System::new().block_on(async move {
        let server = HttpServer::new(move || {
            let answer = answer.clone();
            let constant = move || {
                let answer = answer.clone();
                async move { HttpResponse::Ok().content_type("application/json").body(answer) }
            };
            App::new().route("/v1/views/{view}", web::get().to(constant))
        });
        let server = server.bind("127.0.0.1:0").expect("a port");
        println!("{}", server.addrs()[0]);
        server.run().await
    });
    served.expect("served");
}

/// The process. Dropping it kills it.
pub struct Constant {
    child: Child,
    /// Where it answers.
    pub address: SocketAddr,
}

impl Constant {
    /// Starts it with answers of this size. Like the product, it has one worker per core.
    pub fn start(size: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.arg("--constant").arg(size.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this binary again");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("its address");
        Self { child, address: line.trim().parse().expect("an address") }
    }
}

impl Drop for Constant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
