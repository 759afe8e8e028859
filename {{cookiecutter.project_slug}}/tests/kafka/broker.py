"""A Kafka broker of its own: one node in KRaft mode, on the loopback.

On a second port it asks who is there: a user may do there what is allowed, and nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from tests.conftest import free_port, wait_for

_ALONE = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded},\
  CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,GUARDED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.guarded.plain.sasl.jaas.config=\
  org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
log.dirs={folder}/logs
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
"""
# It is small and short-lived: what pays on many is switched off.
_JAVA = ("-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
USER, PASSWORD = "somebody", "a-password"


@dataclass
class Broker:
    """Its process, and the folder that outlives it."""

    folder: Path
    port: int = field(default_factory=free_port)
    guarded: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What clients connect to."""
        return f"127.0.0.1:{self.port}"

    @property
    def admin(self) -> AdminClient:
        """A client that makes and removes."""
        return AdminClient({"bootstrap.servers": self.address, "log_level": 0})

    def format(self) -> None:
        """Make its storage."""
        written = _ALONE.format(
            port=self.port,
            guarded=self.guarded,
            controller=free_port(),
            folder=self.folder,
            user=USER,
            password=PASSWORD,
        )
        self._properties.write_text(written, encoding="utf-8")
        identity = ("--cluster-id", "4L6g3nShT-eMCtK--X86sw", "--config", str(self._properties))
        self._java("kafka.tools.StorageTool", "format", *identity).wait()

    def start(self) -> None:
        """Start it; it answers afterwards."""
        self.process = self._java("kafka.Kafka", str(self._properties))
        assert wait_for(self._answers)

    def kill(self) -> None:
        """Kill it at once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def create(self, *topics: str, partitions: int = 3, **config: str) -> None:
        """Make topics, and wait until the broker knows them: it says that they are made before."""
        admin = self.admin
        wanted = [NewTopic(name, partitions, 1, config=config) for name in topics]
        for made in admin.create_topics(wanted).values():
            made.result(60)

        def are_known() -> bool:
            described = admin.describe_topics(TopicCollection(list(topics)))
            return all(topic.exception(60) is None for topic in described.values())

        assert wait_for(are_known)

    def allow(self, kind: str, name: str, *operations: str) -> None:
        """Let the user do something with a topic, a group or the like whose name begins so."""
        admin = self.admin
        for operation in operations:
            binding = AclBinding(
                ResourceType[kind],
                name,
                ResourcePatternType.PREFIXED,
                f"User:{USER}",
                "*",
                AclOperation[operation],
                AclPermissionType.ALLOW,
            )
            admin.create_acls([binding])[binding].result(60)

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        home = os.environ.get("JAVA_HOME")
        java = shutil.which("java", path=str(Path(home, "bin")) if home else None)
        assert java
        command = [java, *_JAVA, "-cp", f"{os.environ['KAFKA_JARS']}/*", *arguments]
        log = (self.folder / "broker.log").open("ab")
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def _answers(self) -> bool:
        try:
            return bool(self.admin.list_topics(timeout=1).brokers)
        except KafkaException:
            return False


def unique(name: str) -> str:
    """A name that nobody else has."""
    return f"{name}-{uuid.uuid4().hex[:8]}"
