"""The rules, as data: which paths run later, and the sentences of every warning.

``RULES`` go by the path alone: whoever changes such a file decides what runs outside the sandbox
some day.  ``CHECKS`` are the codes of what the other modules of this room find by looking.  Codes
are stable: programs go by them.  docs/warnings.md lists all of this, and a test holds it to that.
Patterns are as ``globs`` reads them; goexfsd.toml may add rules of the same form.
"""

from __future__ import annotations

from dataclasses import dataclass

ARRIVED = frozenset(("created", "modified", "renamed", "retyped"))
"""Kinds of change by which content comes to a path."""
SWITCHED = ARRIVED | {"metadata"}
"""For what its mode can turn on."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A warning by path."""

    code: str
    says: str
    """Why a person should look, as half a sentence."""
    patterns: tuple[str, ...]
    kinds: frozenset[str] = ARRIVED
    but: tuple[str, ...] = ()
    """What is not meant although a pattern matches."""


_GIT_HOOKS = (
    "applypatch-msg,commit-msg,fsmonitor-watchman,post-applypatch,post-checkout,post-commit,"
    "post-index-change,post-merge,post-receive,post-rewrite,post-update,pre-applypatch,"
    "pre-auto-gc,pre-commit,pre-merge-commit,pre-push,pre-rebase,pre-receive,"
    "prepare-commit-msg,proc-receive,push-to-checkout,reference-transaction,"
    "sendemail-validate,update"
)

RULES = (
    Rule(
        "git-hook",
        "git runs it when you work in this repository",
        (
            ".git/hooks/**",
            ".git/modules/**/hooks/*",
            ".git/worktrees/**/hooks/*",
            "*.git/hooks/*",
            "hooks/{" + _GIT_HOOKS + "}",
            ".githooks/**",
            ".husky/**",
        ),
        SWITCHED,
        ("*.sample",),
    ),
    Rule(
        "git-dir",
        "it decides where git finds its directory, and with it hooks and settings that run",
        (".git/commondir", ".git/gitdir", ".git/config.worktree", ".git/worktrees/*/*dir"),
    ),
    Rule("git-modules", "git fetches what it names", (".gitmodules",)),
    Rule(
        "git-deleted",
        "a repository's own data is gone: history that nothing else may hold",
        (".git", ".git/{HEAD,config,objects,refs,packed-refs}", ".git/{objects,refs}/**"),
        frozenset(("deleted",)),
    ),
    Rule(
        "pre-commit",
        "it decides what runs at each commit you make",
        (
            ".pre-commit-config.{yaml,yml}",
            ".pre-commit-hooks.{yaml,yml}",
            "{,.}lefthook{,-local}.{yml,yaml,toml,json}",
            ".lefthook/**",
            ".lintstagedrc*",
            "lint-staged.config.*",
            ".overcommit.yml",
            ".simple-git-hooks.*",
        ),
    ),
    Rule(
        "directory-env",
        "a shell that enters this directory may load it",
        (".envrc", ".env", "{,.}mise.toml", "{,.}mise.local.toml", ".autoenv{,.zsh}", ".in"),
    ),
    Rule(
        "shell-start",
        "a shell runs it when it starts or ends",
        (
            ".{bashrc,bash_profile,bash_login,bash_logout,bash_aliases,profile}",
            ".{zshrc,zshenv,zprofile,zlogin,zlogout,kshrc,mkshrc,cshrc,tcshrc,login,logout}",
            ".bashrc.d/**",
            ".zsh/**",
            ".oh-my-zsh/**",
            "fish/config.fish",
            "fish/{conf.d,functions,completions}/*",
            "bash_completion.d/*",
            "etc/{profile,bash.bashrc,bashrc,zshrc,environment}",
            "etc/zsh/*",
            "profile.d/*",
        ),
    ),
    Rule(
        "login-start",
        "it runs when somebody logs in, or starts a desktop",
        (
            ".{xinitrc,xsession,xsessionrc,xprofile,xserverrc,pam_environment}",
            ".config/environment.d/*",
            "autostart/*.desktop",
            "applications/*.desktop",
            "{LaunchAgents,LaunchDaemons}/*.plist",
            ".config/{i3,sway,hypr,awesome,openbox}/**",
        ),
    ),
    Rule(
        "program-start",
        "a program runs or obeys it when it starts",
        (
            ".{gdbinit,lldbinit,irbrc,pryrc,Rprofile,Renviron,psqlrc,sqliterc,mailcap,inputrc}",
            ".pythonrc{,.py}",
            ".pythonstartup{,.py}",
            ".ipython/**/startup/*",
            ".jupyter/*.py",
            ".{tmux.conf,screenrc,wgetrc,curlrc}",
            ".config/{tmux,git,pip,uv}/*",
            ".config/{nushell,powershell,jj,hg,kitty,wezterm,ghostty}/**",
            ".gitconfig",
            ".hgrc",
            ".hg/hgrc",
            ".{aws,kube}/config",
            ".docker/config.json",
            ".gnupg/*.conf",
        ),
    ),
    Rule(
        "on-path",
        "a shell may find it in place of the program of that name",
        (
            ".{local,cargo,npm-global,bun,deno}/bin/*",
            ".{pyenv,rbenv,asdf}/shims/*",
            ".local/share/mise/shims/*",
            "go/bin/*",
            "{home/*,root}/bin/*",
            "usr/{,local/}{bin,sbin}/*",
        ),
        SWITCHED,
    ),
    Rule(
        "ssh",
        "it decides who may log in as you, or what ssh runs",
        (".ssh/**", "etc/ssh/**"),
        SWITCHED,
    ),
    Rule(
        "service",
        "the system may start it as a service",
        (
            "*.{service,timer}",
            "systemd/**/*.{socket,path,mount,automount,target,slice,conf,generator}",
            "systemd/{system,user}-{generators,environment-generators,sleep,shutdown}/*",
            "init.d/*",
            "rc.local",
            "dbus-1/**/*.{conf,service}",
            "supervisor/**/*.conf",
        ),
        SWITCHED,
    ),
    Rule(
        "cron",
        "cron runs it at set times",
        (
            "crontab",
            "anacrontab",
            "cron.{d,hourly,daily,weekly,monthly}/*",
            "var/spool/{cron,anacron,at}/**",
        ),
        SWITCHED,
    ),
    Rule(
        "system-rights",
        "it decides who may do what on the system, or what every program loads",
        (
            "etc/{sudoers,passwd,group,shadow,gshadow,doas.conf,hosts.allow,ld.so.preload}",
            "etc/ld.so.conf{,.d/**}",
            "sudoers.d/*",
            "pam.d/*",
            "polkit-1/**",
            "udev/rules.d/*",
            "modprobe.d/*",
            "modules-load.d/*",
            "binfmt.d/*",
            "sysctl.d/*",
            "apt.conf.d/*",
            "NetworkManager/dispatcher.d/**",
            "logrotate.d/*",
        ),
        SWITCHED,
    ),
    Rule(
        "python-env",
        "it decides which Python runs, and where that finds its modules",
        ("pyvenv.cfg", "{bin,Scripts}/activate*", "{.venv,venv,.virtualenv}/bin/*"),
        SWITCHED,
    ),
    Rule(
        "python-start",
        "every Python that sees it runs it at its start",
        (
            "*.pth",
            "{sitecustomize,usercustomize}.*",
            "{sitecustomize,usercustomize}/__init__.*",
        ),
    ),
    Rule(
        "test-code",
        "it runs when tests are run, or only looked for",
        (
            "conftest.py",
            "{noxfile,toxfile}.py",
            "{tox,pytest}.ini",
            "{jest,vitest,karma,playwright,cypress}.{config,setup,conf}.*",
        ),
    ),
    Rule(
        "build-file",
        "it runs when the project is built, installed or deployed",
        (
            "{GNUmakefile,Makefile,makefile,BSDmakefile}{,.am,.in}",
            "*.{mk,mak,cmake,ninja,gradle,gradle.kts,gyp,gypi,podspec,gemspec}",
            "{CMakeLists.txt,meson.build,SConstruct,SConscript,wscript,build.ninja}",
            "{configure,configure.ac,autogen.sh,bootstrap,gradlew,gradlew.bat,mvnw,mvnw.cmd}",
            "{build.rs,build.zig,build.sbt,build.xml,pom.xml,Package.swift,mix.exs}",
            ".cargo/config{,.toml}",
            ".mvn/**",
            "gradle/wrapper/*",
            "{setup.py,setup.cfg,dodo.py,fabfile.py,tasks.py}",
            "{Justfile,justfile,.justfile,Taskfile.yml,Taskfile.yaml,Rakefile,Gemfile,Podfile}",
            "{Dockerfile,Containerfile,Vagrantfile,Procfile,Tiltfile,Earthfile,Brewfile}",
            "{docker-,}compose{,.override}.{yml,yaml}",
            "{BUILD,WORKSPACE,MODULE}{,.bazel}",
            "*.bzl",
            ".bazelrc",
            "{flake,shell,default}.nix",
            "{Gruntfile,gulpfile,Gulpfile}.*",
            "*.{csproj,vbproj,fsproj,vcxproj,props,targets}",
        ),
        SWITCHED,
    ),
    Rule(
        "tool-config",
        "a tool runs it, or lets it name what to run, when it works on this project",
        (
            "{webpack,rollup,vite,babel,next,nuxt,svelte,tailwind,postcss,astro}.config.*",
            "{eslint,prettier,stylelint,commitlint,metro,esbuild,tsup}.config.*",
            ".{eslintrc,prettierrc,babelrc,stylelintrc}*",
            ".{npmrc,yarnrc,yarnrc.yml,pnpmfile.cjs,bunfig.toml}",
            ".yarn/{releases,plugins}/**",
            "{pip.conf,pip.ini,.pypirc,uv.toml}",
            "ansible.cfg",
            ".terraformrc",
        ),
    ),
    Rule(
        "ci",
        "a build server runs what it says, with that server's secrets",
        (
            ".github/{workflows,actions}/**",
            ".{gitea,forgejo}/{workflows,actions}/**",
            ".{circleci,buildkite,semaphore,teamcity,woodpecker,gitlab,ci}/**",
            ".{gitlab-ci,travis,drone,woodpecker,appveyor,cirrus,build}.{yml,yaml}",
            "{appveyor,azure-pipelines*,bitbucket-pipelines,cloudbuild,buildspec}.{yml,yaml}",
            "action.{yml,yaml}",
            "Jenkinsfile*",
        ),
        SWITCHED,
    ),
    Rule(
        "editor",
        "an editor may run what it says when it opens this directory",
        (
            ".vscode/{tasks,launch,settings,extensions,mcp}.json",
            "*.{code-workspace,sublime-project}",
            ".devcontainer/**",
            ".devcontainer.json",
            ".idea/{runConfigurations/**,workspace.xml,externalDependencies.xml,watcherTasks.xml}",
            ".idea/tools/*",
            ".run/*.xml",
            ".{vimrc,gvimrc,exrc,nvimrc,nvim.lua,lvimrc,viminfo,nanorc,emacs,spacemacs}",
            "{.vim,nvim,.emacs.d}/**",
            ".dir-locals{,-2}.el",
            ".{zed,fleet,helix}/*",
        ),
    ),
    Rule(
        "agent",
        "a coding agent obeys it, or runs what it names",
        (
            "{.mcp.json,mcp.json}",
            ".{claude,cursor,codex,gemini,continue,windsurf,aider,opencode,qwen,kiro,roo,augment}/**",
            ".{amazonq,junie,factory,goose,crush,clinerules}/**",
            ".{cursorrules,windsurfrules,clinerules,roorules,rules,aider.conf.yml,goosehints}",
            "{AGENTS,CLAUDE,GEMINI,QWEN,WARP}.md",
            "{AGENTS.override,CLAUDE.local,SKILL}.md",
            "{opencode,crush}.json",
            ".github/copilot-instructions.md",
        ),
    ),
)

CHECKS = {
    "mass-deletion": "many files are deleted or emptied",
    "setuid": "it runs with the rights of its owner or group, whoever starts it",
    "capability": "it runs with capabilities of root",
    "world-writable": "every user of this machine may change it",
    "device": "it gives access to a device, not to data",
    "link-out": "a symlink that leads out of the directory you gave",
    "shared-file": "names that are not listed change with it",
    "binary": "machine code: nobody can review it here",
    "bytecode": "Python runs it in place of the source that you can read",
    "bytecode-alone": "Python bytecode without a source that you could read",
    "secret": "its text looks like a secret",
    "git-config": "a git setting that runs a program, or leads to other settings",
    "git-attributes": "it chooses a driver, which git may run on files",
    "git-link": "it tells git to look elsewhere for this repository's directory",
    "package-scripts": "what a package manager or its tools run here has changed",
    "name-control": "its name has control characters",
    "name-bidi": "its name has characters that turn the order of others around",
    "name-invisible": "its name has characters that are not seen",
    "name-lookalike": "its name reads like another one",
    "name-poses": "its name poses as one that programs know",
    "name-option": "programs may take its name for an option",
    "unread": "it could not be read to look for more",
}
"""Code -> sentence of every warning that is not by path alone."""

CODES = frozenset(CHECKS) | {rule.code for rule in RULES}
"""Every code that is ours."""

DELETED_MANY = 20
"""More deleted and emptied files than this are a ``mass-deletion``.

No share of the tree: that would need a walk of the base, and a script could hide behind many
changes of other kinds."""
