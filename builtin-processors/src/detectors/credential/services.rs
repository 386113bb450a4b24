//! Keys and tokens of services, by the shapes that their makers gave them.
//!
//! Shapes from the makers' documentation where there is one, and else from gitleaks' rules
//! (github.com/gitleaks/gitleaks, config/gitleaks.toml, 8.x).

use super::{
    super::{checks, tokens},
    BASE, Detector, sign,
};
use crate::detectors::{Boundary, Part};

pub(super) const DETECTORS: &[Detector] = &[
    Detector {
        name: "aws_access_key",
        title: "AWS access key id",
        description: "`AKIA`, `ASIA`, `ABIA` or `ACCA` and 16 letters and digits of base32 (AWS IAM, \
            \"Unique identifiers\").",
        pattern: r"(?-u)A(?:KIA|SIA|BIA|CCA)[A-Z2-7]{16}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 4))),
        examples: &["AKIAIOSFODNN7EXAMPLE"],
        ..BASE
    },
    Detector {
        name: "aws_secret_key",
        title: "AWS secret access key",
        description: "40 letters of base64 that look random, near words that say so (AWS IAM, \
            \"Managing access keys\").",
        pattern: r"(?-u)[A-Za-z0-9/+]{40}",
        check: Some(|matched| {
            tokens::is_secret(matched) && !matched.iter().all(u8::is_ascii_hexdigit)
        }),
        keywords: &[
            "aws secret",
            "aws secret key",
            "aws secret access key",
            "secret access key",
        ],
        examples: &["aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"],
        ..BASE
    },
    Detector {
        name: "gcp_api_key",
        title: "Google API key",
        description: "`AIza` and 35 letters (Google Cloud, \"Manage API keys\"; gitleaks).",
        pattern: r"(?-u)AIza[0-9A-Za-z_-]{35}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 4))),
        boundary: Boundary::Token,
        examples: &["AIzaSyDaGmWKa4JsXZ-HjGw7ISLn_3namBGewQe"],
        ..BASE
    },
    Detector {
        name: "gcp_oauth_token",
        title: "Google OAuth token or client secret",
        description: "`ya29.` and 20 or more letters, or `GOCSPX-` and 28 (Google Identity, \"Using \
            OAuth 2.0\"; gitleaks).",
        pattern: r"(?-u)\b(?:ya29\.[0-9A-Za-z_-]{20,512}|GOCSPX-[0-9A-Za-z_-]{28})",
        check: Some(|matched| checks::is_random(checks::behind(matched, 5))),
        boundary: Boundary::Any,
        part: Part::Beyond(tokens::rest_of_token),
        examples: &["ya29.a0AfH6SMBx3kQ9ZpLrT7vYcW2"],
        ..BASE
    },
    Detector {
        name: "azure_storage_key",
        title: "Azure storage account key",
        description: "`AccountKey` and 64 bytes in base64, in a connection string or as a member of JSON \
            (Microsoft Learn, \"Configure Azure Storage connection strings\").",
        pattern: r#"(?i-u)AccountKey["']?[ \t]{0,4}[:=][ \t]{0,4}["']?[A-Za-z0-9+/]{86}=="#,
        boundary: Boundary::Any,
        part: Part::Inside(|matched| matched.len().saturating_sub(88)..matched.len()),
        examples: &[
            "AccountKey=lJzRc1YdHaAA2KCNJJ1tkYwF/+mKK6Ygw0NGe170Xu592euJv2wYUtBlV8z+qnlcNQSnIYVTkLWntUO1F8j8rQ==",
        ],
        ..BASE
    },
    Detector {
        name: "azure_client_secret",
        title: "Microsoft Entra client secret",
        description: "40 letters with a digit and `Q~` in the fourth to sixth place (Microsoft Learn, \
            credential scanning; gitleaks).",
        pattern: r"(?-u)[A-Za-z0-9_~.]{3}\dQ~[A-Za-z0-9_~.-]{31,34}",
        check: Some(checks::is_random),
        boundary: Boundary::Token,
        examples: &["client secret a1b8Q~pLmN0oPqR2sTuV4wXyZ6aBcD8eFgH0iJkL"],
        ..BASE
    },
    Detector {
        name: "azure_sas",
        title: "Azure shared access signature",
        description: "`sig=` and a SHA-256 in base64, as it stands in URLs (Microsoft Learn, \"Create a \
            service SAS\").",
        pattern: r"(?-u)[?&;]sig=[A-Za-z0-9+/%]{43,90}",
        check: Some(|matched| {
            let signature = checks::behind(matched, 5);
            let escapes = signature.iter().filter(|&&byte| byte == b'%').count();
            // 43 letters, an escape counts for one, and `%3D` at the end for none.
            let padding = usize::from(signature.ends_with(b"%3D") || signature.ends_with(b"%3d"));
            signature.len() == 43 + 2 * (escapes - padding.min(escapes)) + 3 * padding
                && checks::is_random(signature)
        }),
        boundary: Boundary::Any,
        part: Part::Inside(|matched| 5..matched.len()),
        examples: &["?sv=2022-11-02&sp=r&sig=AbC3dEf%2BGh1jKlMn0pQrStUvWxYz4567890AbCdEfGh%3D"],
        ..BASE
    },
    Detector {
        name: "github_token",
        title: "GitHub token",
        description: "`ghp_`, `gho_`, `ghu_`, `ghs_` or `ghr_` and 36 letters, the last six of which are \
            a checksum; or `github_pat_` with 22 and 59 (GitHub Blog, \"Behind GitHub's new \
            authentication token formats\", 2021).",
        pattern: r"(?-u)gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z]{22}_[0-9A-Za-z]{59}",
        check: Some(|matched| match matched.get(3) {
            Some(b'_') => tokens::has_crc(checks::behind(matched, 4)),
            _ => checks::is_random(checks::behind(matched, 11)),
        }),
        examples: &["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"],
        ..BASE
    },
    Detector {
        name: "gitlab_token",
        title: "GitLab token",
        description: "`glpat-`, `gldt-`, `glrt-`, `glptt-`, `glft-`, `glcbt-`, `glsoat-`, `glagent-` or \
            `glimt-` and 20 or more letters (GitLab Docs, \"Token overview\").",
        pattern: r"(?-u)\bgl(?:pat|dt|rt|ptt|ft|cbt|soat|agent|imt)-[0-9A-Za-z_.-]{20,100}",
        check: Some(checks::is_random),
        boundary: Boundary::Any,
        part: Part::Beyond(tokens::rest_of_token),
        examples: &["glpat-xY3kL9mNpQ2rStUvWz7A"],
        ..BASE
    },
    Detector {
        name: "slack_token",
        title: "Slack token",
        description: "`xoxb-`, `xoxp-`, `xoxa-`, `xoxe-`, `xoxs-`, `xoxo-` or `xoxr-` and numbers and \
            letters, or `xapp-` (Slack API, \"Token types\").",
        pattern: r"(?-u)\b(?:xox[abeoprs]-[0-9A-Za-z-]{10,250}|xapp-\d-[A-Z0-9]{8,16}-\d{8,16}-[0-9a-f]{32,80})",
        check: Some(|matched| matched.iter().filter(|byte| byte.is_ascii_digit()).count() >= 4),
        boundary: Boundary::Any,
        part: Part::Beyond(tokens::rest_of_token),
        examples: &["xoxb-263594206564-2343594206574-FGqddMF8t08v8N7Oq4i57vs1"],
        ..BASE
    },
    Detector {
        name: "slack_webhook",
        title: "Slack webhook",
        description: "The path of a URL of hooks.slack.com, which is the secret (Slack API, \"Sending \
            messages using incoming webhooks\").",
        pattern: r"(?-u)hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/]{20,100}",
        boundary: Boundary::Any,
        part: Part::Inside(|matched| {
            let mut slashes = matched
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b'/');
            let second = slashes.nth(1).map_or(0, |(at, _)| at + 1);
            second..matched.len()
        }),
        kept: b"/",
        examples: &[
            "https://hooks.slack.com/services/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",
        ],
        ..BASE
    },
    Detector {
        name: "stripe_key",
        title: "Stripe secret key",
        description: "`sk_`, `rk_`, `whsec_` with `live_` or `test_` and 16 or more letters (Stripe Docs, \
            \"API keys\"). Publishable keys are no secrets.",
        pattern: r"(?-u)[sr]k_(?:live|test)_[0-9A-Za-z]{16,247}|whsec_[0-9A-Za-z+/=]{32,80}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 6))),
        examples: &["sk_test_4eC39HqLyjWDarjtT1zdp7dc"],
        ..BASE
    },
    Detector {
        name: "twilio_key",
        title: "Twilio API key or auth token",
        description: "`SK` and 32 hexadecimal digits, or 32 of them as the value of a key with `twilio` or \
            `auth_token` in its name (Twilio Docs, \"API keys\").",
        pattern: concat!(
            r"(?-u)SK[0-9a-f]{32}|(?i-u:twilio|auth[_-]?token)[A-Za-z0-9_-]{0,16}",
            sign!(),
            r"[0-9a-f]{32}"
        ),
        check: Some(|matched| checks::is_random(checks::last(matched, 32))),
        part: Part::Inside(
            |matched| match matched.starts_with(b"SK") && matched.len() == 34 {
                true => 0..34,
                false => matched.len().saturating_sub(32)..matched.len(),
            },
        ),
        examples: &["SK2b8f3c1a9d4e7f6051c2b3a4d5e6f708"],
        ..BASE
    },
    Detector {
        name: "sendgrid_key",
        title: "SendGrid API key",
        description: "`SG.`, 22 letters, a dot, 43 letters (Twilio Docs, SendGrid \"API keys\").",
        pattern: r"(?-u)SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{43}",
        examples: &["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"],
        ..BASE
    },
    Detector {
        name: "mailgun_key",
        title: "Mailgun API key",
        description: "`key-` and 32 hexadecimal digits (Mailgun documentation; gitleaks).",
        pattern: r"(?-u)key-[0-9a-f]{32}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 4))),
        examples: &["key-3a86f09d29bd6fd504ac373a9cdbe010"],
        ..BASE
    },
    Detector {
        name: "npm_token",
        title: "npm access token",
        description: "`npm_` and 36 letters (GitHub Changelog, \"npm has a new access token format\", \
            2021).",
        pattern: r"(?-u)npm_[0-9A-Za-z]{36}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 4))),
        examples: &["npm_8mQ2vZx7LkR4tYbN1cWs5dFgHj9pKa3eUo60"],
        ..BASE
    },
    Detector {
        name: "pypi_token",
        title: "PyPI API token",
        description: "`pypi-` and a macaroon of pypi.org or test.pypi.org (PyPI, \"API tokens\"; gitleaks).",
        pattern: r"(?-u)\bpypi-AgE(?:IcHlwaS5vcmc|NdGVzdC5weXBpLm9yZw)[0-9A-Za-z_-]{50,512}",
        boundary: Boundary::Any,
        part: Part::Beyond(tokens::rest_of_token),
        examples: &[
            "pypi-AgEIcHlwaS5vcmcCJDkwNzYwNzU1LWMwOTUtNGNkOC1iYjQzLTU3OWNhZjI1NDQ1MwACKlszLCJjZj",
        ],
        ..BASE
    },
    Detector {
        name: "openai_key",
        title: "OpenAI API key",
        description: "`sk-`, and letters around `T3BlbkFJ` (\"OpenAI\" in base64) (OpenAI, \"API keys\"; \
            gitleaks).",
        pattern: r"(?-u)sk-[0-9A-Za-z_-]{40,220}",
        check: Some(|matched| memchr::memmem::find(matched, b"T3BlbkFJ").is_some()),
        boundary: Boundary::Token,
        examples: &["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"],
        ..BASE
    },
    Detector {
        name: "anthropic_key",
        title: "Anthropic API key",
        description: "`sk-ant-`, a kind with two digits, and 80 or more letters (Anthropic, \"API keys\"; \
            gitleaks).",
        pattern: r"(?-u)sk-ant-[a-z]{3,6}\d{2}-[0-9A-Za-z_-]{80,120}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 14))),
        boundary: Boundary::Token,
        examples: &[
            "sk-ant-api03-q7Zk2mVx9LrT4wYb8NcJ5sHdF1gKp6eUo3iAa0RtQyWxMnBvCzLkJhGfDsPq7Zk2mVx9LrT4wYb8NcJ5sHdF1gAA",
        ],
        ..BASE
    },
    Detector {
        name: "datadog_key",
        title: "Datadog API or application key",
        description: "32 or 40 hexadecimal digits that look random, near words that say so (Datadog \
            Docs, \"API and application keys\").",
        pattern: r"(?-u)[0-9a-f]{40}|[0-9a-f]{32}",
        check: Some(checks::is_random),
        keywords: &[
            "dd api key",
            "dd app key",
            "dd application key",
            "datadog api key",
            "datadog app key",
            "datadog application key",
            "datadog key",
        ],
        examples: &["DD_API_KEY=4f8a91c2d3e5b60718293a4b5c6d7e8f"],
        ..BASE
    },
    Detector {
        name: "newrelic_key",
        title: "New Relic key",
        description: "`NRAK-`, `NRJS-`, `NRII-`, `NRIQ-`, `NRBR-` or `NRRA-` and 19 or 27 letters, or a \
            licence key: 36 hexadecimal letters (or 6 for a region and 30) and `NRAL` (New Relic Docs, \
            \"API keys\").",
        pattern: r"(?-u)NR(?:AK|JS|II|IQ|BR|RA)-[0-9A-Za-z_-]{19,32}|[0-9a-z]{6}[0-9a-f]{30}NRAL",
        check: Some(|matched| checks::is_random(checks::behind(matched, 5))),
        examples: &["NRAK-7JQ2M9XK4R8T1V5W3Y6Z0B2C4D6"],
        ..BASE
    },
    Detector {
        name: "huggingface_token",
        title: "Hugging Face token",
        description: "`hf_` and 34 letters, or `api_org_` and 34 (Hugging Face Docs, \"User access \
            tokens\"; gitleaks).",
        pattern: r"(?-u)(?:hf_|api_org_)[0-9A-Za-z]{34}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 3))),
        examples: &["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"],
        ..BASE
    },
    Detector {
        name: "shopify_token",
        title: "Shopify token",
        description: "`shpat_`, `shpca_`, `shppa_` or `shpss_` and 32 hexadecimal digits (Shopify \
            Developers, \"Access tokens\").",
        pattern: r"(?-u)shp(?:at|ca|pa|ss)_[0-9A-Fa-f]{32}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 6))),
        examples: &["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"],
        ..BASE
    },
    Detector {
        name: "digitalocean_token",
        title: "DigitalOcean token",
        description: "`dop_v1_`, `doo_v1_` or `dor_v1_` and 64 hexadecimal digits (DigitalOcean Docs, \
            \"Personal access tokens\").",
        pattern: r"(?-u)do[opr]_v1_[0-9a-f]{64}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 7))),
        examples: &["dop_v1_4f8a91c2d3e5b60718293a4b5c6d7e8f9a0b1c2d3e4f5061728394a5b6c7d8e9"],
        ..BASE
    },
    Detector {
        name: "vault_token",
        title: "HashiCorp Vault token",
        description: "`hvs.`, `hvb.` or `hvr.` and 24 or more letters (HashiCorp Vault, \"Tokens\").",
        pattern: r"(?-u)\bhv[sbr]\.[0-9A-Za-z_-]{24,300}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 4))),
        boundary: Boundary::Any,
        part: Part::Beyond(tokens::rest_of_token),
        examples: &["hvs.CAESIJ3kL9mNpQ2rStUvWz7AxY"],
        ..BASE
    },
    Detector {
        name: "telegram_token",
        title: "Telegram bot token",
        description: "Eight to ten digits, `:AA` and 32 or 33 letters (Telegram Bot API; gitleaks).",
        pattern: r"(?-u)\d{8,10}:AA[0-9A-Za-z_-]{32,33}",
        check: Some(|matched| checks::is_random(checks::last(matched, 32))),
        boundary: Boundary::Any,
        examples: &["bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"],
        ..BASE
    },
    Detector {
        name: "docker_token",
        title: "Docker access token",
        description: "`dckr_pat_` or `dckr_oat_` and 27 or more letters (Docker Docs, \"Personal access \
            tokens\"; TruffleHog).",
        pattern: r"(?-u)dckr_[po]at_[0-9A-Za-z_-]{27,32}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 9))),
        boundary: Boundary::Token,
        examples: &["dckr_pat_8mQ2vZx7LkR4tYbN1cWs5dFgHj9"],
        ..BASE
    },
    Detector {
        name: "databricks_token",
        title: "Databricks token",
        description: "`dapi` and 32 hexadecimal digits, maybe `-` and a digit (Databricks documentation, \
            \"Personal access tokens\").",
        pattern: r"(?-u)dapi[0-9a-f]{32}(?:-\d)?",
        check: Some(|matched| checks::is_random(checks::behind(matched, 4))),
        examples: &["dapi4f8a91c2d3e5b60718293a4b5c6d7e8f-2"],
        ..BASE
    },
    Detector {
        name: "grafana_token",
        title: "Grafana token",
        description: "`glsa_` with 32 letters and 8 hexadecimal digits, or `glc_` and base64 (Grafana \
            documentation, \"Service accounts\"; gitleaks).",
        pattern: r"(?-u)glsa_[0-9A-Za-z]{32}_[0-9A-Fa-f]{8}|glc_[0-9A-Za-z+/]{32,400}={0,2}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 4))),
        boundary: Boundary::Token,
        examples: &["glsa_8mQ2vZx7LkR4tYbN1cWs5dFgHj9pKa3e_5f3c2a1b"],
        ..BASE
    },
    Detector {
        name: "atlassian_token",
        title: "Atlassian API token",
        description: "`ATATT3` and 180 or more letters (Atlassian Support, \"Manage API tokens\"; \
            gitleaks).",
        pattern: r"(?-u)ATATT3[0-9A-Za-z_=-]{180,250}",
        check: Some(|matched| checks::is_random(checks::behind(matched, 6))),
        boundary: Boundary::Token,
        examples: &[
            "ATATT3q7Zk2mVx9LrT4wYb8NcJ5sHdF1gKp6eUo3iAa0RtQyWxMnBvCzLkJhGfDsPq7Zk2mVx9LrT4wYb8NcJ5sHdF1gKp6eUo3iAa0RtQyWxMnBvCzLkJhGfDsPq7Zk2mVx9LrT4wYb8NcJ5sHdF1gKp6eUo3iAa0RtQyWxMnBvCzLkJhGfDsP=1A2B3C4D",
        ],
        ..BASE
    },
];
