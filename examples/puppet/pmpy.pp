# Makes a server live: the agent of a release, verified by its checksum, and one repository.
class pmpy (
  String $source     = 'https://downloads.example.org/push-me-pull-you/0.2.0/agent-x86_64-unknown-linux-musl',
  String $sha256     = '0000000000000000000000000000000000000000000000000000000000000000',
  String $repository = 'https://git.example.org/ops.git',
  String $repo_name  = 'ops',
  String $part       = 'web',
) {
  file { '/etc/pmpy':
    ensure => directory,
    mode   => '0755',
  }

  # Puppet replaces it by rename: an action that runs continues under the old one.
  file { '/usr/local/bin/agent':
    ensure         => file,
    mode           => '0755',
    source         => $source,
    checksum       => 'sha256',
    checksum_value => $sha256,
  }

  file { '/usr/local/bin/pmpy':
    ensure => link,
    target => 'agent',
  }

  exec { 'agent init':
    command => ['/usr/local/bin/agent', 'init', "${repo_name}=${repository}", '--part', $part],
    creates => "/etc/pmpy/agent.d/${repo_name}.toml",
    require => File['/etc/pmpy', '/usr/local/bin/agent'],
  }
}

include pmpy
