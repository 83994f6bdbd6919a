//! A configuration as it was understood, written as YAML: every default spelled out, variables expanded, secrets hidden.

use serde_yaml::{Error, Value};

use super::Config;

/// What stands for a secret; no secret is as short.
const HIDDEN: &str = "(hidden)";

impl Config {
    /// Writes the configuration as YAML that reads as the same one, but for secrets, which are hidden.
    ///
    /// # Errors
    /// Names of files that are no text.
    pub(crate) fn to_yaml(&self) -> Result<String, Error> {
        let mut config = self.without_secrets()?;
        double_dollars(&mut config);
        serde_yaml::to_string(&config)
    }

    /// The configuration as a tree, but for secrets, which are hidden.
    ///
    /// # Errors
    /// Names of files that are no text.
    pub(crate) fn without_secrets(&self) -> Result<Value, Error> {
        let mut config = serde_yaml::to_value(self)?;
        for (_, upstream) in config.get_mut("upstreams").and_then(Value::as_mapping_mut).into_iter().flatten() {
            let cookie = upstream.get_mut("affinity").and_then(|affinity| affinity.get_mut("cookie"));
            if let Some(secret) = cookie.and_then(|cookie| cookie.get_mut("secret")).filter(|secret| !secret.is_null())
            {
                *secret = HIDDEN.into();
            }
        }
        hide_secrets_of(config.get_mut("access"));
        let headers = config.get_mut("traces").and_then(|traces| traces.get_mut("headers")?.as_mapping_mut());
        headers.into_iter().flatten().for_each(|(_, value)| *value = HIDDEN.into());
        for route in config.get_mut("routes").and_then(Value::as_sequence_mut).into_iter().flatten() {
            hide_secrets_of(route.get_mut("access"));
        }
        Ok(config)
    }
}

/// Hides the secret that an `access` shares with an issuer, and what the passwords of its users hash to.
fn hide_secrets_of(access: Option<&mut Value>) {
    let Some(access) = access else { return };
    let secret = access.get_mut("jwt").and_then(|jwt| jwt.get_mut("secret")).filter(|secret| !secret.is_null());
    if let Some(secret) = secret {
        *secret = HIDDEN.into();
    }
    let users = access.get_mut("basic").and_then(|basic| basic.get_mut("users")?.as_sequence_mut());
    for user in users.into_iter().flatten() {
        if let Some((name, _)) = user.as_str().and_then(|text| text.split_once(':')) {
            *user = format!("{name}:{HIDDEN}").into();
        }
    }
}

/// Doubles every dollar sign in a value, so that none begins a variable when it is read again.
fn double_dollars(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace('$', "$$"),
        Value::Sequence(items) => items.iter_mut().for_each(double_dollars),
        Value::Mapping(entries) => entries.values_mut().for_each(double_dollars),
        Value::Tagged(tagged) => double_dollars(&mut tagged.value),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Config {
        Config::read("test", text, &|name| (name == "PORT").then(|| "8080".to_owned())).unwrap().config
    }

    #[test]
    fn defaults_are_spelled_out_and_variables_expanded() {
        let yaml = read("listeners: [{ address: '127.0.0.1:${PORT}' }]\nroutes: [{ respond: { body: costs $$5 } }]");
        let yaml = yaml.to_yaml().unwrap();
        for line in ["address: 127.0.0.1:8080", "  backlog: 4096", "    body: costs $$5", "  keep_alive: 1m 15s"] {
            assert!(yaml.contains(&format!("{line}\n")), "{line}: {yaml}");
        }
    }

    #[test]
    fn secrets_are_hidden_and_hidden_ones_are_no_secrets() {
        let secret = "0123456789abcdef";
        let affinity = format!("affinity: {{ cookie: {{ secret: {secret} }} }}");
        let text = format!(
            "listeners: [{{ address: ':1' }}]\nroutes: [{{ upstream: a }}]\nupstreams: {{ a: {{ servers: ['a:1'], {affinity} }} }}"
        );
        let config = read(&text);
        let yaml = config.to_yaml().unwrap();
        assert!(yaml.contains("secret: (hidden)\n") && !yaml.contains(secret), "{yaml}");
        assert!(Config::read("printed", &yaml, &|_| None).is_err());
        assert_eq!(read(&yaml.replace(HIDDEN, secret)), config);
    }
}
