//! Connecting, and making the keyspace: what an operator gets wrong is said in one line that names the setting, within seconds.

use std::collections::BTreeSet;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::{OpenSsl010Config, Session};
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::NewSessionError;
use scylla::statement::{Consistency, SerialConsistency};

use super::base::change_schema;
use super::options::CqlOptions;
use crate::error::{Result, StoreError};

/// How long it may take until some node has answered.
const CONNECT: Duration = Duration::from_secs(8);
/// How long one node may take.
const CONNECT_NODE: Duration = Duration::from_secs(3);

/// A session with the cluster.
pub async fn connect(options: &CqlOptions) -> Result<Session> {
    options.check()?;
    let profile = ExecutionProfile::builder()
        .consistency(options.write_consistency)
        .serial_consistency(Some(serial(options)))
        .request_timeout(Some(options.request_timeout))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&options.nodes)
        .connection_timeout(CONNECT_NODE)
        .hostname_resolution_timeout(Some(CONNECT_NODE))
        .keyspaces_to_fetch([&options.keyspace])
        .default_execution_profile_handle(profile.into_handle());
    if let (Some(user), Some(password)) = (&options.user, &options.password) {
        builder = builder.user(user, password);
    }
    if let Some(ca) = &options.tls_ca {
        let tls = SslConnector::builder(SslMethod::tls()).and_then(|mut tls| {
            tls.set_ca_file(ca)?;
            Ok(tls)
        });
        let tls = tls.map_err(|error| StoreError::Invalid(format!("store.tls_ca {}: {error}", ca.display())))?;
        builder = builder.tls_context(Some(OpenSsl010Config::new(tls)));
    }
    let nodes = options.nodes.join(", ");
    match tokio::time::timeout(CONNECT, builder.build()).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(error)) => Err(refused(options, &nodes, &error)),
        Err(_elapsed) => Err(StoreError::unavailable(
            format!("connecting to store.nodes {nodes}"),
            format!("no node answered within {} s", CONNECT.as_secs()),
        )),
    }
}

fn refused(options: &CqlOptions, nodes: &str, error: &NewSessionError) -> StoreError {
    let text = error.to_string();
    let lower = text.to_lowercase();
    let context = if ["credential", "password", "authenticat", "username"].iter().any(|word| lower.contains(word)) {
        match &options.user {
            Some(user) => format!("store.user `{user}` or store.password is not accepted by {nodes}"),
            None => format!("{nodes} asks for store.user and store.password"),
        }
    } else if lower.contains("tls") || lower.contains("ssl") {
        format!("store.tls_ca does not fit {nodes}")
    } else {
        format!("connecting to store.nodes {nodes}")
    };
    StoreError::unavailable(context, text)
}

/// The level at which conditional writes agree: within the datacenter where plain ones stay within it.
pub fn serial(options: &CqlOptions) -> SerialConsistency {
    match options.write_consistency {
        Consistency::LocalQuorum | Consistency::LocalOne => SerialConsistency::LocalSerial,
        _ => SerialConsistency::Serial,
    }
}

/// The level at which what a conditional write may have left half done is settled first, and then read.
pub fn settled(options: &CqlOptions) -> Consistency {
    match serial(options) {
        SerialConsistency::LocalSerial => Consistency::LocalSerial,
        SerialConsistency::Serial => Consistency::Serial,
    }
}

/// Whether the keyspace is there.
pub async fn has_keyspace(session: &Session, options: &CqlOptions) -> Result<bool> {
    let context = || format!("looking for store.keyspace `{}`", options.keyspace);
    let select = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let mut select = scylla::statement::unprepared::Statement::new(select);
    select.set_consistency(Consistency::One);
    let found = session.query_unpaged(select, (&options.keyspace,)).await;
    let found = found.map_err(|error| StoreError::unavailable(context(), error))?;
    let rows = found.into_rows_result().map_err(|error| StoreError::unavailable(context(), error))?;
    Ok(rows.rows_num() > 0)
}

/// Makes the keyspace if it is not there, replicated in every datacenter of the cluster.
pub async fn create_keyspace(session: &Session, options: &CqlOptions) -> Result<()> {
    let cluster = session.get_cluster_state();
    let datacenters: BTreeSet<&str> =
        cluster.get_nodes_info().iter().filter_map(|node| node.datacenter.as_deref()).collect();
    let replicas = options.replication;
    let strategy = if datacenters.is_empty() {
        format!("'class': 'SimpleStrategy', 'replication_factor': {replicas}")
    } else {
        let each = datacenters.iter().map(|name| format!(", '{}': {replicas}", name.replace('\'', "''")));
        format!("'class': 'NetworkTopologyStrategy'{}", each.collect::<String>())
    };
    let create = format!("CREATE KEYSPACE IF NOT EXISTS \"{}\" WITH replication = {{{strategy}}}", options.keyspace);
    let context = format!("creating store.keyspace `{}`", options.keyspace);
    // ScyllaDB's tablets did not have conditional writes at first; a version without tablets refuses the word.
    let is_scylla = cluster.get_nodes_info().iter().any(|node| node.sharder().is_some());
    if is_scylla {
        let without_tablets = format!("{create} AND tablets = {{'enabled': false}}");
        if change_schema(session, &*context, without_tablets).await.is_ok() {
            return Ok(());
        }
    }
    change_schema(session, context, create).await
}
