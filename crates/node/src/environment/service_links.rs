//! The variables that tell a container about services: SVC_SERVICE_HOST and its like, and the API's own address.

use std::collections::BTreeMap;

/// What a service's variables are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedService {
    /// Its name.
    pub name: String,
    /// Its cluster address.
    pub cluster_ip: String,
    /// Port name, protocol and number, in order.
    pub ports: Vec<(String, String, u16)>,
}

fn variable_name(text: &str) -> String {
    text.to_ascii_uppercase().replace('-', "_")
}

/// The variables of one service.
pub fn service_variables(service: &LinkedService, into: &mut BTreeMap<String, String>) {
    let Some((_, first_protocol, first_port)) = service.ports.first() else { return };
    let prefix = variable_name(&service.name);
    let host = &service.cluster_ip;
    let join = |port: u16| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    into.insert(format!("{prefix}_SERVICE_HOST"), host.clone());
    into.insert(format!("{prefix}_SERVICE_PORT"), first_port.to_string());
    into.insert(format!("{prefix}_PORT"), format!("{}://{}", first_protocol.to_ascii_lowercase(), join(*first_port)));
    for (name, protocol, port) in &service.ports {
        if !name.is_empty() {
            into.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.to_string());
        }
        let base = format!("{prefix}_PORT_{port}_{}", protocol.to_ascii_uppercase());
        into.insert(base.clone(), format!("{}://{}", protocol.to_ascii_lowercase(), join(*port)));
        into.insert(format!("{base}_PROTO"), protocol.to_ascii_lowercase());
        into.insert(format!("{base}_PORT"), port.to_string());
        into.insert(format!("{base}_ADDR"), host.clone());
    }
}
