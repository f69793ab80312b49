"""Whole files in both forms, as an operator would have them."""

import json
from typing import Any

GUIDE: dict[str, Any] = {
    "mercure": {
        "incoming_folder": "/opt/mercure/data/incoming",
        "processing_folder": "/opt/mercure/data/processing",
        "success_folder": "/opt/mercure/data/success",
        "error_folder": "/opt/mercure/data/error",
        "router_scan_interval": 1,
        "dispatcher_scan_interval": 1,
        "cleaner_scan_interval": 60,
        "retention_days": 7,
    },
    "webgui": {
        "auth_token_key": "generate_random_key_here",
        "ssl_certificate": "/path/to/cert.pem",
        "ssl_key": "/path/to/key.pem",
    },
    "processor": {"max_parallel_jobs": 4, "gpu_memory_limit": "4G", "cpu_limit": "4"},
    "rules": [
        {
            "name": "Process CT Studies",
            "condition": "@Modality@ == 'CT'",
            "action": "process",
            "target": "ai_processor",
            "timeout": 300,
        }
    ],
    "targets": {
        "ai_processor": {
            "processing_module": "mercure-monaisegment",
            "settings": {"batch_size": 16, "timeout": 600},
        }
    },
    "cleaner": {
        "success_retention_days": 7,
        "error_retention_days": 14,
        "discard_retention_days": 3,
        "min_free_space_gb": 10,
    },
}

_DICOM = {
    "ip": "10.0.0.5",
    "port": "104",
    "aet_target": "PACS",
    "aet_source": "GATE",
    "pass_sender_aet": "True",
    "pass_receiver_aet": False,
    "contact": "pacs team",
    "comment": "first floor",
    "direction": "both",
}

FLAT: dict[str, Any] = {
    "appliance_name": "gate1",
    "appliance_color": "#1A2B3C",
    "port": 11113,
    "accept_compressed_images": "True",
    "incoming_folder": "/srv/in",
    "studies_folder": "/srv/studies",
    "outgoing_folder": "/srv/out",
    "success_folder": "/srv/ok",
    "error_folder": "/srv/error",
    "discard_folder": "/srv/discard",
    "processing_folder": "/srv/work",
    "jobs_folder": "/srv/jobs",
    "persistence_folder": "/srv/keep",
    "router_scan_interval": "2",
    "dispatcher_scan_interval": 3,
    "cleaner_scan_interval": 90,
    "retention": 432000,
    "emergency_clean_percentage": 85,
    "retry_delay": 600,
    "retry_max": 7,
    "series_complete_trigger": 45,
    "study_complete_trigger": 800,
    "study_forcecomplete_trigger": 5000,
    "dicom_receiver": {"additional_tags": {"StationName": "CT1", "0018,0015": "CHEST"}},
    "graphite_ip": "10.0.0.9",
    "graphite_port": 2004,
    "influxdb_host": "http://influx:8086",
    "influxdb_token": "influx-Geheim",
    "influxdb_org": "radiology",
    "influxdb_bucket": "mercure",
    "bookkeeper": "bookkeeper:8080",
    "bookkeeper_api_key": "book-Geheim",
    "offpeak_start": "21:30",
    "offpeak_end": "05:15",
    "targets": {
        "pacs": {"target_type": "dicom", **_DICOM},
        "pacs_tls": {
            "target_type": "dicomtls",
            **_DICOM,
            "aet_source": "",
            "tls_key": "/k.pem",
            "tls_cert": "/c.pem",
            "ca_cert": "/ca.pem",
        },
        "back": {"target_type": "dicom", "ip": "sender", "port": "11112", "aet_target": "CT1"},
        "web": {
            "target_type": "dicomweb",
            "url": "https://web.example.org/dicom",
            "qido_url_prefix": "q",
            "wado_url_prefix": "w",
            "stow_url_prefix": None,
            "access_token": "web-Geheim",
            "http_user": "u",
            "http_password": "http-Geheim",
        },
        "sftp": {
            "target_type": "sftp",
            "folder": "in",
            "user": "u",
            "host": "h",
            "password": "sftp-Geheim",
            "file_filter": "*.json, *.log",
        },
        "rsync": {
            "target_type": "rsync",
            "folder": "/in",
            "user": "u",
            "host": "h",
            "password": None,
            "run_on_complete": True,
            "file_filter": None,
        },
        "xnat": {
            "target_type": "xnat",
            "project_id": "P1",
            "host": "https://xnat.example.org",
            "user": "u",
            "password": "xnat-Geheim",
        },
        "s3": {
            "target_type": "s3",
            "region": "eu-1",
            "bucket": "b",
            "prefix": "",
            "access_key_id": "AK",
            "secret_access_key": "s3-Geheim",
        },
        "folder": {"target_type": "folder", "folder": "/srv/export", "file_filter": "*.tags"},
        "dummy": {"target_type": "dummy"},
    },
    "rules": {
        "second_name_first": {
            "rule": "@Modality@ == 'MR'",
            "action": "both",
            "action_trigger": "study",
            "study_trigger_condition": "received_series",
            "study_trigger_series": "'t1' and 't2'",
            "study_force_completion_action": "proceed",
            "target": ["pacs", "folder"],
            "disabled": "False",
            "fallback": "0",
            "priority": "urgent",
            "processing_module": ["anonymize", "segment"],
            "processing_settings": [{"a": 1}, {"b": [1, 2]}],
            "processing_retain_images": True,
            "notification_webhook": "https://hook.example.org",
            "notification_payload": '"text": "{{ rule }}"',
            "notification_payload_body": "body",
            "notification_email": "a@example.org, b@example.org",
            "notification_email_body": "mail",
            "notification_email_type": "html",
            "notification_trigger_reception": False,
            "notification_trigger_completion": False,
            "notification_trigger_completion_on_request": True,
            "notification_trigger_error": False,
            "dynamic_routing": True,
            "dynamic_routing_allowed_targets": ["pacs"],
            "conditional_alternate_target": "folder",
            "contact": "c",
            "comment": "d",
            "tags": "e",
        },
        "a_rule": {"rule": "True", "target": "pacs", "fallback": True, "priority": "offpeak"},
        "no_expression": {"action": "discard"},
    },
    "modules": {
        "segment": {
            "docker_tag": "example/segment:1.2",
            "additional_volumes": '{"/opt/mercure/processor_volumes/host": {"bind": "/c", "mode": "ro"}}',
            "environment": '{"TOKEN": "module-Geheim", "THREADS": 4}',
            "docker_arguments": '{"shm_size": "1g"}',
            "settings": {"threshold": 0.5},
            "contact": "x",
            "comment": "y",
            "constraints": "c",
            "resources": "r",
            "requires_root": False,
            "requires_persistence": True,
            "persistence_folder_name": "seg",
            "network_enabled": False,
        },
        "anonymize": {"docker_tag": "example/anonymize", "environment": ""},
    },
    "process_runner": "nomad",
    "processing_runtime": "nvidia",
    "features": {"dummy_target": True},
    "processing_logs": {"discard_logs": True, "logs_file_store": "/srv/logs"},
    "email_notification_from": "gate@example.org",
    "support_root_modules": True,
    "webhook_certificate_location": "/ca/hooks.pem",
    "phi_notifications": True,
    "server_time": "Europe/Berlin",
    "local_time": "America/New_York",
    "dicom_retrieve": {"dicom_nodes": [{"name": "n", "ip": "1.2.3.4"}], "destination_folders": [{"path": "/d"}]},
    "store_sample_dicom_tags": True,
}

GEHEIM = "Geheim"
"""Part of every secret in these samples."""


def text_of(value: Any) -> str:
    """Write JSON with one key per line, so that lines of problems can be told."""
    return json.dumps(value, indent=1)


def route(name: str = "ct", target: str | list[str] = "archive", **more: Any) -> dict[str, Any]:
    """Build a rule of the nested form."""
    return {"name": name, "condition": "tags.Modality == 'CT'", "target": target, **more}


def archive(**more: Any) -> dict[str, Any]:
    """Build a DICOM target of the nested form."""
    return {"target_type": "dicom", "host": "10.0.0.5", "port": 104, "called_ae_title": "PACS", **more}


def good(**more: Any) -> dict[str, Any]:
    """Build a small whole file without a fault."""
    return {"rules": [route()], "targets": {"archive": archive()}, **more}
